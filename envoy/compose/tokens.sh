#!/bin/sh
# Makes the tokens that the programs know each other by, once: they outlive a restart. Each is in a folder, and so on a
# volume, of its own: authzd has the sidecar's only.
set -eu
umask 077
dir=${1:-/etc/phantom}
for file in "$dir/sidecar/key-api.token" "$dir/operator/operator.token"; do
	[ -s "$file" ] && continue
	head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file.new"
	mv "$file.new" "$file"
	echo "made $file"
done
