#!/bin/sh
# Makes the tokens of the programs unless they exist. Each is in a separate directory, so that volumes can separate them: authzd
# has the sidecar's token only.
set -eu
umask 077
dir=${1:-/etc/phantom}
for file in "$dir/sidecar/key-api.token" "$dir/operator/operator.token"; do
	[ -s "$file" ] && continue
	head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file.new"
	mv "$file.new" "$file"
	echo "made $file"
done
