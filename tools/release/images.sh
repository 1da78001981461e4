#!/bin/sh
# Makes the images of a release from the programs in dist/: dist/phantom-authz-linux-ARCH.oci.tar, and their digests in
# dist/IMAGES. With a Docker daemon it uses docker buildx, else buildah, else it makes none and says so.
# Usage: images.sh VERSION EPOCH
set -eu
umask 022
version=$1 epoch=$2

prepare() { # prepare ARCH: the folder of the image
	folder=dist/.image/$1
	mkdir -p "$folder/bin" "$folder/empty/run/phantom" "$folder/empty/var/lib/phantom" \
		"$folder/empty/etc/phantom/sidecar" "$folder/empty/etc/phantom/operator"
	for name in authzd keyd keyctl; do cp "dist/$name-linux-$1" "$folder/bin/$name"; done
}

with_docker() { # with_docker ARCH
	SOURCE_DATE_EPOCH=$epoch docker buildx build --platform "linux/$1" --provenance=false -f tools/release/Dockerfile \
		--label "org.opencontainers.image.version=$version" \
		--output "type=oci,dest=dist/.image/$1/layout,tar=false,name=phantom-authz:$version,rewrite-timestamp=true" "dist/.image/$1"
}

with_buildah() { # with_buildah ARCH
	image=localhost/phantom-authz:release-$1
	buildah bud --quiet --platform "linux/$1" --timestamp "$epoch" --isolation chroot -f tools/release/Dockerfile \
		--label "org.opencontainers.image.version=$version" -t "$image" "dist/.image/$1" >/dev/null
	buildah push --quiet "$image" "oci:dist/.image/$1/layout:$version" >/dev/null
	buildah rmi "$image" >/dev/null
}

if docker info >/dev/null 2>&1; then
	tool=docker
elif command -v buildah >/dev/null; then
	tool=buildah
else
	echo "no images: neither a Docker daemon nor buildah is present"
	exit 0
fi
echo "images: with $tool"
for arch in amd64 arm64; do
	prepare $arch
	with_$tool $arch
	layout=dist/.image/$arch/layout
	tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=a+rX,u+w,go-w --format=ustar \
		-cf "dist/phantom-authz-linux-$arch.oci.tar" -C "$layout" blobs index.json oci-layout
	printf 'linux/%s %s\n' $arch "$(grep -o 'sha256:[0-9a-f]*' "$layout/index.json" | head -1)" >>dist/IMAGES
done
