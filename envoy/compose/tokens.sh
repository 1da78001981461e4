#!/bin/sh
# Makes the tokens that the programs know each other by, once: they outlive a restart.
set -eu
umask 077
dir=${1:-/etc/phantom/secrets}
for name in key-api operator; do
	file=$dir/$name.token
	[ -s "$file" ] && continue
	head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file.new"
	mv "$file.new" "$file"
	echo "made $file"
done
