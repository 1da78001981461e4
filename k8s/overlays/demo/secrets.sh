#!/bin/sh
# Makes missing tokens and certificates of the demo in secrets/ beside this file. Needs openssl.
# Arguments are further DNS names of keyd: that of its Service, if a namePrefix or nameSuffix changes it.
# The certificates are valid for a year, and the key of their CA is deleted: to renew them, remove secrets/ and run this again.
set -eu
umask 077
command -v openssl >/dev/null || { echo "secrets.sh: missing openssl" >&2; exit 1; }
cd "$(dirname "$0")"
mkdir -p secrets
cd secrets

for name in key-api alice bob; do
	[ -s $name.token ] || openssl rand -hex 32 | tr -d '\n' >$name.token
done
[ -s keyd.crt ] && [ -s authzd.crt ] && [ -s envoy.crt ] && [ -s alice.crt ] && [ -s bob.crt ] && exit

# certificate NAME USAGE ALTERNATIVE_NAMES: makes a key and a certificate that the CA signs.
certificate() {
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -subj "/CN=$1" -out "$1.csr"
	printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$2" "$3" >"$1.ext"
	openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile "$1.ext" -out "$1.crt"
	rm "$1.csr" "$1.ext"
}
{
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -subj "/CN=phantom demo CA" -days 365 -out ca.crt \
		-addext 'keyUsage=critical,keyCertSign'
	certificate keyd serverAuth "DNS:keyd,DNS:keyd.phantom.svc,DNS:localhost${1:+$(printf ',DNS:%s' "$@")}"
	certificate authzd clientAuth,serverAuth DNS:authzd   # a server in overlays/central
	certificate envoy clientAuth DNS:envoy
	certificate alice clientAuth DNS:alice
	certificate bob clientAuth DNS:bob
} 2>openssl.log || { cat openssl.log >&2; exit 1; }
rm -f ca.key ca.srl openssl.log
