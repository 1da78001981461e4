package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// step is a request to the operators' side and the complete answer. In the answer TIME, ID, HINT, PLAIN, TOKEN, CURSOR and N
// match generated values. $NAME is a value that an earlier step has saved.
type step struct {
	request string // METHOD PATH[ BODY]
	status  int
	answer  string // "": an error envelope
	says    string // part of an envelope's message
	save    string // NAME=FIELD.FIELD of the answer
}

const (
	anAccount   = `{"id":"acc-1_X","name":"Ann","state":"active","created_at":TIME,"terminated_at":null}`
	aTerminated = `{"id":"acc-1_X","name":"Ann","state":"terminated","created_at":TIME,"terminated_at":TIME}`
	isEffective = `{"revision":N,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}`
	aDigest     = "abababababababababababababababababababababababababababababababab"
)

// aKey returns the JSON of a key of the account.
func aKey(id, label, hint, scopes, state, expires, revoked string) string {
	return `{"id":` + id + `,"account":"acc-1_X","label":"` + label + `","hint":` + hint + `,"scopes":[` + scopes + `],"state":"` + state +
		`","created_at":TIME,"created_by":"operator:alice","expires_at":` + expires + `,"revoked_at":` + revoked + `,"last_used_at":null,"replaced_by":null}`
}

// replacedBy returns the JSON of a key after a roll.
func replacedBy(successor, key string) string {
	return strings.Replace(key, `"replaced_by":null`, `"replaced_by":`+successor, 1)
}

// administration is a sequence of all operations of operators, with the answers and the errors of the contract.
var administration = []step{
	{"POST /v1/accounts " + `{"id":"acc-1_X","name":"Ann"}`, 201, `{"account":` + anAccount + `}`, "", ""},
	{"POST /v1/accounts " + `{"id":"acc-1_X","name":"Ann"}`, 409, "", "acc-1_X", ""},
	{"POST /v1/accounts " + `{"name":"Ben","id":null}`, 201, `{"account":{"id":ID,"name":"Ben","state":"active","created_at":TIME,"terminated_at":null}}`, "", "BEN=account.id"},
	{"POST /v1/accounts " + `{"id":"a.b","name":"x"}`, 400, "", "id", ""},
	{"POST /v1/accounts " + `{"id":"x"}`, 400, "", "name", ""},
	{"GET /v1/accounts/acc-1_X", 200, `{"account":` + anAccount + `}`, "", ""},
	{"GET /v1/accounts/nobody", 404, "", "", ""},
	{"GET /v1/accounts?limit=1", 200, `{"accounts":[` + anAccount + `],"next":"CURSOR"}`, "", "NEXT=next"},
	{"GET /v1/accounts?limit=1&cursor=$NEXT", 200, `{"accounts":[{"id":"$BEN","name":"Ben","state":"active","created_at":TIME,"terminated_at":null}],"next":null}`, "", ""},
	{"GET /v1/audit?cursor=$NEXT", 400, "", "cursor", ""},
	{"GET /v1/accounts/acc-1_X/keys?cursor=$NEXT", 400, "", "cursor", ""},
	{"GET /v1/sidecars?cursor=$NEXT", 400, "", "cursor", ""},

	{"POST /v1/accounts/acc-1_X/keys " + `{"label":"laptop"}`, 201, `{"key":` + aKey("ID", "laptop", "HINT", "", "active", "null", "null") + `,"plaintext":PLAIN,"change":` + isEffective + `}`, "", "KEY=key.id"},
	{
		"POST /v1/accounts/acc-1_X/keys " + `{"label":"bot","scopes":["read","chat:companion","read"],"expires_at":"2999-01-01T01:00:00+01:00"}`, 201,
		`{"key":` + aKey("ID", "bot", "HINT", `"chat:companion","read"`, "active", `"2999-01-01T00:00:00Z"`, "null") + `,"plaintext":PLAIN,"change":` + isEffective + `}`, "", "BOT=key.id",
	},
	{"POST /v1/accounts/nobody/keys " + `{"label":"x"}`, 404, "", "", ""},
	{"POST /v1/accounts/acc-1_X/keys " + `{"label":"x","scopes":["chat:companoin"]}`, 400, "", "chat:companion, read", ""},
	{"POST /v1/accounts/acc-1_X/keys " + `{"label":"x","expires_at":"2001-01-01T00:00:00Z"}`, 400, "", "expires_at", ""},
	{"POST /v1/accounts/acc-1_X/keys " + `{"label":"a\nb"}`, 400, "", "label", ""},
	{"POST /v1/accounts/acc-1_X/keys/import " + `{"sha256":"` + aDigest + `","label":"old","scopes":["read"]}`, 201, `{"key":` + aKey("ID", "old", "null", `"read"`, "active", "null", "null") + `,"change":` + isEffective + `}`, "", "OLD=key.id"},
	{"POST /v1/accounts/acc-1_X/keys/import " + `{"sha256":"` + aDigest + `","label":"old"}`, 409, "", "", ""},
	{"POST /v1/accounts/$BEN/keys/import " + `{"sha256":"` + aDigest + `","label":"old"}`, 409, "", "", ""},
	{"POST /v1/accounts/acc-1_X/keys/import " + `{"sha256":"` + strings.ToUpper(aDigest) + `","label":"old"}`, 409, "", "SHA-256", ""},
	{"POST /v1/accounts/acc-1_X/keys/import " + `{"sha256":"` + strings.Repeat("xy", 32) + `","label":"old"}`, 400, "", "sha256", ""},
	{"GET /v1/accounts/acc-1_X/keys?limit=1", 200, `{"keys":[` + aKey(`"$KEY"`, "laptop", "HINT", "", "active", "null", "null") + `],"next":"CURSOR"}`, "", "NEXT=next"},
	{"GET /v1/accounts/acc-1_X/keys?cursor=$NEXT", 200, `{"keys":[` + aKey(`"$BOT"`, "bot", "HINT", `"chat:companion","read"`, "active", `"2999-01-01T00:00:00Z"`, "null") + `,` +
		aKey(`"$OLD"`, "old", "null", `"read"`, "active", "null", "null") + `],"next":null}`, "", ""},
	{"GET /v1/accounts/$BEN/keys?cursor=$NEXT", 400, "", "cursor", ""},
	{"GET /v1/keys/$KEY", 200, `{"key":` + aKey(`"$KEY"`, "laptop", "HINT", "", "active", "null", "null") + `}`, "", ""},
	{"GET /v1/keys/$KEY/usage", 200, `{"usage":[],"next":null}`, "", ""},
	{"GET /v1/keys/nothing", 404, "", "", ""},

	{"PUT /v1/keys/$KEY/scopes/chat:companion", 200, `{"key":` + aKey(`"$KEY"`, "laptop", "HINT", `"chat:companion"`, "active", "null", "null") + `,"change":` + isEffective + `}`, "", "REV=change.revision"},
	{"PUT /v1/keys/$KEY/scopes/chat%3Acompanion", 200, `{"key":` + aKey(`"$KEY"`, "laptop", "HINT", `"chat:companion"`, "active", "null", "null") + `,"change":{"revision":$REV,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}}`, "", ""},
	{"PUT /v1/keys/$KEY/scopes/write", 400, "", "chat:companion, read", ""},
	{"DELETE /v1/keys/$KEY/scopes/write", 400, "", "chat:companion, read", ""},
	{"DELETE /v1/keys/$KEY/scopes/chat:companion", 200, `{"key":` + aKey(`"$KEY"`, "laptop", "HINT", "", "active", "null", "null") + `,"change":` + isEffective + `}`, "", "REV=change.revision"},
	{"DELETE /v1/keys/$KEY/scopes/chat:companion", 200, `{"key":` + aKey(`"$KEY"`, "laptop", "HINT", "", "active", "null", "null") + `,"change":` + isEffective + `}`, "", ""},
	{"GET /v1/revisions/$REV?wait_ms=1000", 200, `{"change":{"revision":$REV,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}}`, "", ""},
	{"GET /v1/revisions/1000", 404, "", "", ""},
	{"GET /v1/revisions/-1", 400, "", "revision", ""},

	{"POST /v1/keys/$KEY/roll " + `{"grace_seconds":604801}`, 400, "", "grace_seconds", ""},
	{"POST /v1/keys/$BOT/roll " + `{"grace_seconds":604800}`, 201, `{"key":` + aKey("ID", "bot", "HINT", `"chat:companion","read"`, "active", `"2999-01-01T00:00:00Z"`, "null") +
		`,"plaintext":PLAIN,"replaced":` + replacedBy("ID", aKey(`"$BOT"`, "bot", "HINT", `"chat:companion","read"`, "active", "TIME", "null")) + `,"change":` + isEffective + `}`, "", "NEW=key.id"},
	{"POST /v1/keys/$BOT/roll " + `{"grace_seconds":60}`, 409, "", `"Key has been replaced by $NEW"`, ""},
	{"POST /v1/keys/$KEY/roll", 201, `{"key":` + aKey("ID", "laptop", "HINT", "", "active", "null", "null") +
		`,"plaintext":PLAIN,"replaced":` + replacedBy("ID", aKey(`"$KEY"`, "laptop", "HINT", "", "revoked", "null", "TIME")) + `,"change":` + isEffective + `}`, "", "NEXT=key.id"},
	{"POST /v1/keys/$KEY/roll", 409, "", "revoked", ""},
	{"POST /v1/keys/$NEW/revoke?wait_ms=0", 200, `{"key":` + aKey(`"$NEW"`, "bot", "HINT", `"chat:companion","read"`, "revoked", `"2999-01-01T00:00:00Z"`, "TIME") + `,"change":` + isEffective + `}`, "", "REV=change.revision"},
	{"POST /v1/keys/$NEW/revoke " + `{}`, 200, `{"key":` + aKey(`"$NEW"`, "bot", "HINT", `"chat:companion","read"`, "revoked", `"2999-01-01T00:00:00Z"`, "TIME") + `,"change":{"revision":$REV,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}}`, "", ""},
	{"POST /v1/keys/nothing/revoke", 404, "", "", ""},
	{"POST /v1/keys/$KEY/revoke " + `{"chain":true}`, 200, `{"key":` + replacedBy(`"$NEXT"`, aKey(`"$KEY"`, "laptop", "HINT", "", "revoked", "null", "TIME")) +
		`,"revoked":["$NEXT"],"change":` + isEffective + `}`, "", ""},
	{"POST /v1/keys/$NEXT/revoke " + `{"chain":true}`, 200, `{"key":` + aKey(`"$NEXT"`, "laptop", "HINT", "", "revoked", "null", "TIME") +
		`,"revoked":[],"change":` + isEffective + `}`, "", ""},
	{"POST /v1/keys/$KEY/revoke " + `{"chain":"true"}`, 400, "", "chain", ""},
	{"POST /v1/keys/$KEY/revoke null", 200, `{"key":` + replacedBy(`"$NEXT"`, aKey(`"$KEY"`, "laptop", "HINT", "", "revoked", "null", "TIME")) + `,"change":` + isEffective + `}`, "", ""},

	{"POST /v1/accounts/acc-1_X/sessions", 201, `{"session":{"id":ID,"account":"acc-1_X","created_at":TIME,"expires_at":TIME},"token":TOKEN}`, "", "SES=session.id"},
	{"POST /v1/accounts/acc-1_X/sessions " + `{"ttl_seconds":59}`, 400, "", "ttl_seconds", ""},
	{"POST /v1/accounts/acc-1_X/sessions " + `{"ttl_seconds":2592001}`, 400, "", "ttl_seconds", ""},
	{"POST /v1/accounts/acc-1_X/sessions " + `{"ttl_seconds":2592000}`, 201, `{"session":{"id":ID,"account":"acc-1_X","created_at":TIME,"expires_at":TIME},"token":TOKEN}`, "", ""},
	{"DELETE /v1/sessions/$SES", 200, `{"session":{"id":"$SES","account":"acc-1_X","created_at":TIME,"expires_at":TIME},"change":` + isEffective + `}`, "", "REV=change.revision"},
	{"DELETE /v1/sessions/$SES", 200, `{"session":{"id":"$SES","account":"acc-1_X","created_at":TIME,"expires_at":TIME},"change":{"revision":$REV,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}}`, "", ""},
	{"DELETE /v1/sessions/nothing", 404, "", "", ""},

	{"POST /v1/accounts/acc-1_X/terminate", 200, `{"account":` + aTerminated + `,"change":` + isEffective + `}`, "", "REV=change.revision"},
	{"POST /v1/accounts/acc-1_X/terminate", 200, `{"account":` + aTerminated + `,"change":{"revision":$REV,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}}`, "", ""},
	{"POST /v1/accounts/acc-1_X/keys " + `{"label":"x"}`, 409, "", "terminated", ""},
	{"POST /v1/accounts/acc-1_X/keys/import " + `{"label":"x","sha256":"` + strings.Repeat("0", 64) + `"}`, 409, "", "terminated", ""},
	{"POST /v1/accounts/acc-1_X/sessions", 409, "", "terminated", ""},
	{"POST /v1/keys/$OLD/roll", 409, "", "terminated", ""},
	{"PUT /v1/keys/$OLD/scopes/chat:companion", 409, "", "terminated", ""},
	{"DELETE /v1/keys/$OLD/scopes/read", 200, `{"key":` + aKey(`"$OLD"`, "old", "null", "", "active", "null", "null") + `,"change":` + isEffective + `}`, "", ""},
	{"POST /v1/accounts/acc-1_X/reinstate", 200, `{"account":` + anAccount + `,"change":` + isEffective + `}`, "", ""},
	{"POST /v1/accounts/nobody/reinstate", 404, "", "", ""},

	{"GET /v1/audit?key=$OLD", 200, `{"events":[{"at":TIME,"actor":"operator:alice","action":"key.ungrant","account":"acc-1_X","key":"$OLD","detail":{"scope":"read"}},` +
		`{"at":TIME,"actor":"operator:alice","action":"key.import","account":"acc-1_X","key":"$OLD","detail":{"label":"old","scopes":"read"}}],"next":null}`, "", ""},
	{"GET /v1/audit?key=$BOT&limit=1", 200, `{"events":[{"at":TIME,"actor":"operator:alice","action":"key.roll","account":"acc-1_X","key":"$BOT","detail":{"grace_seconds":"604800","successor":"$NEW"}}],"next":"CURSOR"}`, "", "NEXT=next"},
	{"GET /v1/audit?key=$OLD&cursor=$NEXT", 400, "", "cursor", ""},
	{"GET /v1/audit?account=$BEN", 200, `{"events":[{"at":TIME,"actor":"operator:alice","action":"account.create","account":"$BEN","key":null,"detail":{"name":"Ben"}}],"next":null}`, "", ""},
	{"GET /v1/audit?account=$BEN&key=$KEY", 200, `{"events":[],"next":null}`, "", ""},
	{"GET /v1/audit?account=a%20b", 400, "", "account", ""},
	{"GET /v1/sidecars", 200, `{"sidecars":[],"next":null}`, "", ""},
	{"GET /v1/accounts?limit=1001", 400, "", "limit", ""},
	{"GET /v1/nothing", 404, "", "", ""},
	{"PATCH /v1/accounts/acc-1_X " + `{"name":"x"}`, 405, "", "GET", ""},
	{"POST /v1/accounts/acc-1_X/keys " + `{"label":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "", "", ""},
}

var envelopes = map[int]string{
	400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED",
	409: "CONFLICT", 413: "PAYLOAD_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE", 429: "TOO_MANY_REQUESTS", 503: "SERVICE_UNAVAILABLE",
}

var placeholders = strings.NewReplacer(
	"TIME", `"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`, "HINT", `"phk_[0-9A-Za-z]{4}"`, "PLAIN", `"phk_[0-9A-Za-z]{38}"`,
	"TOKEN", `"phs_[0-9A-Za-z]{38}"`, "CURSOR", `[\w-]+`, `:ID,`, `:"(acc|key|ses)_[0-9A-Za-z]+",`, `:ID\}`, `:"(acc|key|ses)_[0-9A-Za-z]+"\}`, ":N,", `:\d+,`,
)

func TestAdministration(t *testing.T) {
	onEachEngine(t, withRead, func(t *testing.T, config string) {
		p := launch(t, config)
		saved := map[string]string{}
		for _, s := range administration {
			request := fill(s.request, saved)
			method, rest, _ := strings.Cut(request, " ")
			path, body, _ := strings.Cut(rest, " ")
			status, header, raw := p.exchange("operators", aliceToken, method, path, body)
			pattern := `\{"error":"` + envelopes[s.status] + `","message":".+","statusCode":` + fmt.Sprint(s.status) + `\}`
			if s.answer != "" {
				pattern = placeholders.Replace(regexp.QuoteMeta(fill(s.answer, saved)))
			}
			if status != s.status || !regexp.MustCompile("^"+pattern+"$").MatchString(raw) || !strings.Contains(raw, fill(s.says, saved)) {
				t.Fatalf("%.200s: %d %s\nwant %d %s %s", request, status, raw, s.status, s.answer, s.says)
			}
			if header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
				t.Errorf("%.200s: %v", request, header)
			}
			if name, field, ok := strings.Cut(s.save, "="); ok {
				saved[name] = valueAt(t, raw, field)
			}
		}
	})
}

func fill(text string, saved map[string]string) string {
	for name, value := range saved {
		text = strings.ReplaceAll(text, "$"+name, value)
	}
	return text
}

func valueAt(t *testing.T, raw, field string) string {
	t.Helper()
	parts := strings.Split(field, ".")
	found := regexp.MustCompile(`"` + parts[len(parts)-1] + `":"?([\w-]+)`).FindStringSubmatch(raw)
	if found == nil {
		t.Fatalf("missing %s in %s", field, raw)
	}
	return found[1]
}
