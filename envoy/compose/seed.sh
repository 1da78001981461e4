#!/bin/sh
# Mints the demo's keys with keyctl, writes them to a file of shell variables, and sends a request with each.
#
# KEYCTL_URL, KEYCTL_TOKEN_FILE   the settings of keyctl
# ENVOY, PHANTOM_URL              Envoy's base URL in this container, and for the user
# DEMO_ENV                        the file of shell variables
set -eu
umask 077
: "${KEYCTL_URL:?}" "${KEYCTL_TOKEN_FILE:?}" "${ENVOY:?}" "${PHANTOM_URL:?}" "${DEMO_ENV:?}"

owner=demo-$(date +%s)
terminated=$owner-terminated
keyctl account create -id "$owner" -name 'Demo' >/dev/null
keyctl account create -id "$terminated" -name 'Demo, terminated' >/dev/null

PHANTOM_EXPIRED_KEY=$(keyctl key mint -account "$owner" -label 'Demo: expired' -expires 1s)
PHANTOM_KEY=$(keyctl key mint -account "$owner" -label 'Demo: no scope')
PHANTOM_CHAT_KEY=$(keyctl key mint -account "$owner" -label 'Demo: chat' -scope chat:companion)
PHANTOM_TERMINATED_KEY=$(keyctl key mint -account "$terminated" -label 'Demo: terminated')
keyctl account terminate -id "$terminated" >/dev/null
PHANTOM_SESSION=$(keyctl session mint -account "$owner")

minted=$(keyctl -o json key mint -account "$owner" -label 'Demo: revoked' | tr -d '\n')
PHANTOM_REVOKED_KEY=$(printf '%s' "$minted" | sed 's/.*"plaintext": *"\([^"]*\)".*/\1/')
keyctl key revoke -id "$(printf '%s' "$minted" | sed 's/.*"id": *"\(key_[^"]*\)".*/\1/')" >/dev/null

for name in PHANTOM_URL PHANTOM_KEY PHANTOM_CHAT_KEY PHANTOM_REVOKED_KEY PHANTOM_EXPIRED_KEY PHANTOM_TERMINATED_KEY \
	PHANTOM_SESSION; do
	eval "printf \"%s='%s'\\n\" $name \"\$$name\""
done >"$DEMO_ENV.new"
mv "$DEMO_ENV.new" "$DEMO_ENV"

# try PATH [NAME]: prints a request with the key or session of that name as a command, and its answer.
try() {
	path=$1
	case ${2-} in
	'') set -- ;;
	PHANTOM_SESSION) set -- 'Cookie: phantom_session=$PHANTOM_SESSION' 'Origin: https://app.phantomrouter.ai' ;;
	*) set -- "Authorization: Bearer \$$2" ;;
	esac
	line="curl \"\$PHANTOM_URL$path\""
	for header in "$@"; do
		line="$line -H \"$header\""
	done
	printf '\n%s\n' "$line"
	(PHANTOM_URL=$ENVOY && eval "$line -sS --max-time 5 -w ' (%{http_code})\n'")
}

sleep 2 # until the key has expired
try /api/v1/me/vector-store PHANTOM_CHAT_KEY
try /api/v1/me/vector-store
try /api/v1/me/vector-store PHANTOM_KEY
try /api/v1/me PHANTOM_REVOKED_KEY
try /api/v1/me PHANTOM_EXPIRED_KEY
try /api/v1/me PHANTOM_TERMINATED_KEY
try /api/v1/me/usage PHANTOM_CHAT_KEY
try '/api/v1/me/keys?limit=1' PHANTOM_SESSION

cat <<END

ready: $PHANTOM_URL
To set the variables above in a shell:   eval "\$(docker compose run --rm -T env)"
The operator's command line:                docker compose run --rm keyctl account list
END
