#!/bin/sh
# Creates the tokens of the programs unless they exist, so that they survive a restart. Each is in a separate folder, and so
# on a separate volume: authzd has that of the sidecars only.
set -eu
umask 077
dir=${1:-/etc/phantom}
for file in "$dir/sidecar/key-api.token" "$dir/operator/operator.token"; do
	[ -s "$file" ] && continue
	head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file.new"
	mv "$file.new" "$file"
	echo "created $file"
done
