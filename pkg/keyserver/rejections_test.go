package keyserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Each row has a request, the status and a part of the message.
func TestOperatorMistakes(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id, _ := f.key("a", "")
	f.key("a", "")
	past := time.Now().Add(-time.Second).Format(time.RFC3339)
	long := strings.Repeat("ü", 201)
	mint, accounts := "/v1/accounts/a/keys", "/v1/accounts"
	for _, m := range []struct {
		method, path, body string
		status             int
		names              string
	}{
		{"POST", accounts, ``, 400, "name"},
		{"POST", accounts, `{}`, 400, "name"},
		{"POST", accounts, `{"name":null}`, 400, "name"},
		{"POST", accounts, `{"name":""}`, 400, "name"},
		{"POST", accounts, `{"name":"` + long + `"}`, 400, "name"},
		{"POST", accounts, `{"name":7}`, 400, "name"},
		{"POST", accounts, `{"name":"x","id":""}`, 400, "id"},
		{"POST", accounts, `{"name":"x","id":"a b"}`, 400, "id"},
		{"POST", accounts, `{"name":"x","id":"` + strings.Repeat("x", 65) + `"}`, 400, "id"},
		{"POST", accounts, `{"name":"x","state":"terminated"}`, 400, "state"},
		{"POST", accounts, `{"Name":"x"}`, 400, "Name"},
		{"POST", accounts, `{"name":"x","name":"y"}`, 400, "name"},
		{"POST", accounts, `{"name":"x"} {}`, 400, "body"},
		{"POST", accounts, `{"name":"x"`, 400, "body"},
		{"POST", accounts, `null`, 400, "name"},
		{"POST", accounts, `["name"]`, 400, "body"},
		{"POST", accounts, ` `, 400, "body"},
		{"POST", mint, `{}`, 400, "label"},
		{"POST", mint, `{"label":"x","scopes":"read"}`, 400, "scopes"},
		{"POST", mint, `{"label":"x","scopes":[7]}`, 400, "scopes[0]"},
		{"POST", mint, `{"label":"x","scopes":["read","Read"]}`, 400, "chat:companion, read, write"},
		{"POST", mint, `{"label":"x","scopes":[""]}`, 400, "scopes"},
		{"POST", mint, `{"label":"x","expires_at":"` + past + `"}`, 400, "expires_at"},
		{"POST", mint, `{"label":"x","expires_at":"tomorrow"}`, 400, "expires_at"},
		{"POST", mint, `{"label":"x","expires_at":"2999-01-01"}`, 400, "expires_at"},
		{"POST", mint, `{"label":"x","expires_at":"2999-01-01T00:00:00"}`, 400, "expires_at"},
		{"POST", mint, `{"label":"x","expires_at":32503680000}`, 400, "expires_at"},
		{"POST", mint, `{"label":"x","expires_at":"9999-12-31T23:59:59-23:59"}`, 400, "expires_at"},
		{"POST", mint, `{"label":"x","sha256":"00"}`, 400, "sha256"},
		{"POST", mint, `{"label":"x","a\u0000b":1}`, 400, ""},
		{"POST", "/v1/accounts/b/keys", `{"label":"x"}`, 404, ""},
		{"POST", mint + "/import", `{"label":"x"}`, 400, "sha256"},
		{"POST", mint + "/import", `{"label":"x","sha256":"` + strings.Repeat("AG", 32) + `"}`, 400, "sha256"},
		{"POST", mint + "/import", `{"label":"x","sha256":"` + strings.Repeat("a", 63) + `"}`, 400, "sha256"},
		{"POST", mint + "/import", `{"sha256":"` + strings.Repeat("a", 64) + `"}`, 400, "label"},
		{"POST", mint + "/import", `{"label":"x","scopes":["x"],"sha256":"` + strings.Repeat("a", 64) + `"}`, 400, "scopes"},
		{"POST", mint + "/import", `{"label":"x","plaintext":"x","sha256":"` + strings.Repeat("a", 64) + `"}`, 400, "plaintext"},
		{"POST", "/v1/keys/" + id + "/roll", `{"grace_seconds":-1}`, 400, "grace_seconds"},
		{"POST", "/v1/keys/" + id + "/roll", `{"grace_seconds":604801}`, 400, "grace_seconds"},
		{"POST", "/v1/keys/" + id + "/roll", `{"grace_seconds":1.5}`, 400, "grace_seconds"},
		{"POST", "/v1/keys/" + id + "/roll", `{"grace_seconds":"60"}`, 400, "grace_seconds"},
		{"POST", "/v1/keys/" + id + "/roll", `{"grace_seconds":99999999999999999999}`, 400, "grace_seconds"},
		{"POST", "/v1/keys/" + id + "/roll", `{"scopes":[]}`, 400, "scopes"},
		{"POST", "/v1/keys/" + id + "/revoke", `{"reason":"leak"}`, 400, "reason"},
		{"PUT", "/v1/keys/" + id + "/scopes/read", `{"scope":"write"}`, 400, "scope"},
		{"POST", "/v1/accounts/a/sessions", `{"ttl_seconds":59}`, 400, "ttl_seconds"},
		{"POST", "/v1/accounts/a/sessions", `{"ttl_seconds":2592001}`, 400, "ttl_seconds"},
		{"POST", "/v1/accounts/a/terminate?wait_ms=60001", ``, 400, "wait_ms"},
		{"POST", "/v1/accounts/a/terminate?wait_ms=-1", ``, 400, "wait_ms"},
		{"POST", "/v1/accounts/a/terminate?wait_ms=1s", ``, 400, "wait_ms"},
		{"POST", "/v1/accounts/a/terminate?wait_ms=", ``, 400, "wait_ms"},
		{"POST", "/v1/accounts/a/terminate?wait_ms=1&wait_ms=2", ``, 400, "wait_ms"},
		{"POST", "/v1/accounts/a/terminate?wait_ms=99999999999999999999", ``, 400, "wait_ms"},
		{"POST", "/v1/accounts/a/terminate?force=1", ``, 400, "force"},
		{"GET", "/v1/accounts?limit=0", ``, 400, "limit"},
		{"GET", "/v1/accounts?limit=1001", ``, 400, "limit"},
		{"GET", "/v1/accounts?limit=ten", ``, 400, "limit"},
		{"GET", "/v1/accounts?limit=%2B1", ``, 400, "limit"},
		{"GET", "/v1/accounts?%zz", ``, 400, "query"},
		{"GET", "/v1/audit?acount=a", ``, 400, "acount"},
		{"GET", "/v1/audit?account=", ``, 400, "account"},
		{"GET", "/v1/audit?key=a%00b", ``, 400, "key"},
		{"GET", "/v1/keys/" + id + "/usage?from=yesterday", ``, 400, "from"},
		{"GET", "/v1/keys/" + id + "/usage?from=", ``, 400, "from"},
		{"GET", "/v1/keys/" + id + "/usage?until=2026-01-01", ``, 400, "until"},
		{"GET", "/v1/keys/" + id + "/usage?until=2026-02-30T00:00:00Z", ``, 400, "until"},
		{"GET", "/v1/keys/" + id + "/usage?since=2026-01-01T00:00:00Z", ``, 400, "since"},
		{"GET", "/v1/keys/" + id + "/usage?from=2026-01-01T00:00:00Z&from=2026-01-01T00:00:00Z", ``, 400, "from"},
		{"GET", "/v1/keys/" + id + "/usage?wait_ms=1", ``, 400, "wait_ms"},
		{"GET", "/v1/keys/nope/usage", ``, 404, ""},
		{"GET", "/v1/revisions/-1", ``, 400, "revision"},
		{"GET", "/v1/revisions/one", ``, 400, "revision"},
		{"GET", "/v1/revisions/99999999999999999999", ``, 404, ""},
		{"GET", "/v1/accounts/b", ``, 404, ""},
		{"GET", "/v1/accounts/a%00", ``, 404, ""},
		{"GET", "/v1/accounts/%2e%2e", ``, 404, ""},
		{"GET", "/v1/accounts/b/keys", ``, 404, ""},
		{"GET", "/v1/keys/nope", ``, 404, ""},
		{"POST", "/v1/keys/nope/revoke", ``, 404, ""},
		{"POST", "/v1/keys/nope/roll", ``, 404, ""},
		{"PUT", "/v1/keys/nope/scopes/read", ``, 404, ""},
		{"DELETE", "/v1/keys/nope/scopes/read", ``, 404, ""},
		{"DELETE", "/v1/sessions/nope", ``, 404, ""},
		{"POST", "/v1/accounts/nope/sessions", ``, 404, ""},
		{"POST", "/v1/accounts/nope/terminate", ``, 404, ""},
		{"POST", "/v1/accounts/nope/reinstate", ``, 404, ""},
		{"GET", "/", ``, 404, ""},
		{"GET", "/v1", ``, 404, ""},
		{"GET", "/v1/accounts/", ``, 404, ""},
		{"GET", "/v1//accounts", ``, 404, ""},
		{"GET", "/v1/x/../accounts", ``, 404, ""},
		{"POST", "/v1/resolve", `{}`, 404, ""},
		{"GET", "/api/v1/me/keys", ``, 404, ""},
	} {
		f.operator(m.method, m.path, m.body).rejected(m.status, m.names)
	}
	// None of these has changed anything.
	if got := len(f.operator("GET", "/v1/accounts", "").at("accounts").([]any)); got != 1 {
		t.Errorf("%d accounts", got)
	}
	if got := len(f.operator("GET", mint, "").at("keys").([]any)); got != 2 {
		t.Errorf("%d keys", got)
	}
}

// A whole number may have any of the forms of JSON.
func TestWholeNumbers(t *testing.T) {
	f := setUp(t)
	f.account("a")
	for text, good := range map[string]bool{
		"60": true, "60.0": true, "6e1": true, "6.00E+1": true, "600e-1": true, "2592000.0": true, "null": true,
		"60.5": false, "1e300": false, "1e999": false, "1e-9": false, "-6e1": false, "9007199254740994.0": false,
		"99999999999999999999": false, `"60"`: false, "true": false, "[60]": false, "{}": false,
	} {
		r := f.operator("POST", "/v1/accounts/a/sessions", `{"ttl_seconds":`+text+`}`)
		if good {
			r.want(201)
		} else {
			r.rejected(400, "ttl_seconds must be a whole number")
		}
	}
	r := f.operator("POST", "/v1/accounts/a/sessions", `{"ttl_seconds":6e1}`)
	began, err1 := time.Parse(time.RFC3339, r.text("session", "created_at"))
	ends, err2 := time.Parse(time.RFC3339, r.text("session", "expires_at"))
	if life := ends.Sub(began); err1 != nil || err2 != nil || life != time.Minute {
		t.Errorf("a session with a lifetime of %s", life)
	}
}

func TestLabels(t *testing.T) {
	f := setUp(t)
	f.account("a")
	for label, good := range map[string]bool{
		`x`:                           true,
		`Ann's laptop — "new" <b>`:    true,
		`日本語 🔑`:                       true,
		strings.Repeat("ü", 200):      true,
		strings.Repeat("ü", 201):      false,
		"a\u202eb":                    false, // right-to-left override
		"a\u2066b":                    false,
		"a\u061cb":                    false,
		"a\u200fb":                    false,
		"a\u2028b":                    false,
		"a\u2029b":                    false,
		"a\u0085b":                    false,
		"a\x7fb":                      false,
		"a\nb":                        false,
		"a\x00b":                      false,
		"a\x1b[31mb":                  false,
		"zero\u200bwidth space is ok": true,
	} {
		raw, _ := json.Marshal(label)
		r := f.operator("POST", "/v1/accounts/a/keys", `{"label":`+string(raw)+`}`)
		if good {
			if got := r.want(201).text("key", "label"); got != label {
				t.Errorf("%q came back as %q", label, got)
			}
		} else {
			r.rejected(400, "label")
		}
		r = f.operator("POST", "/v1/accounts", `{"name":`+string(raw)+`}`)
		if good {
			r.want(201)
		} else {
			r.rejected(400, "name")
		}
	}
	for _, raw := range []string{"\"a\xffb\"", `"\ud800"`, "\"\xed\xa0\x80\""} {
		f.operator("POST", "/v1/accounts/a/keys", `{"label":`+raw+`}`).rejected(400, "label")
	}
}

// routesOf returns the routes of each side.
func routesOf(f *fixture) map[string][]route {
	s := f.Server
	return map[string][]route{"operators": s.operatorRoutes(), "owners": s.ownerRoutes(), "sidecars": s.sidecarRoutes()}
}

func example(path string) string {
	return strings.NewReplacer("{id}", "a", "{scope}", "read", "{revision}", "1", "{name}", "s").Replace(path)
}

func TestMethodsAndMedia(t *testing.T) {
	f := setUp(t)
	send := map[string]func(*http.Request){
		"operators": func(r *http.Request) { r.Header.Set("Authorization", "bearer "+bobToken) },
		"owners": func(r *http.Request) {
			r.Header.Set(accountHeader, "a")
			r.Header.Set(principalHeader, "session")
		},
		"sidecars": func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+sidecarToken) },
	}
	for side, rows := range routesOf(f) {
		allowed := map[string][]string{}
		for _, row := range rows {
			allowed[row.Path] = append(allowed[row.Path], row.Method)
		}
		for path, methods := range allowed {
			r := request("PATCH", example(path), "")
			send[side](r)
			got := f.do(side, r)
			got.rejected(405)
			for _, m := range methods {
				if !strings.Contains(got.header.Get("Allow"), m) {
					t.Errorf("%s: allow %q without %s", path, got.header.Get("Allow"), m)
				}
			}
		}
		for _, row := range rows {
			if row.Method == http.MethodGet || row.Stream { // see TestImportRejections
				continue
			}
			for _, ct := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "nonsense;;"} {
				r := request(row.Method, example(row.Path), `{}`)
				r.Header.Del("Content-Type")
				if ct != "" {
					r.Header.Set("Content-Type", ct)
				}
				send[side](r)
				f.do(side, r).rejected(415, "application/json")
			}
			limit := int(row.MaxBody)
			if limit == 0 {
				limit = 1 << 20
			}
			body := "{" + strings.Repeat(" ", limit-1) + "}"
			for _, length := range []int64{int64(len(body)), -1} {
				r := request(row.Method, example(row.Path), body)
				r.ContentLength = length
				send[side](r)
				f.do(side, r).rejected(413, fmt.Sprint(limit))
			}
			r := request(row.Method, example(row.Path), "{}")
			r.Header.Set("Content-Type", "application/json; charset=utf-8")
			send[side](r)
			if got := f.do(side, r); got.status == 415 || got.status >= 500 {
				t.Errorf("%s %s: %d %s", row.Method, row.Path, got.status, got.raw)
			}
			r = request(row.Method, example(row.Path)+"?verbose", "")
			send[side](r)
			f.do(side, r).rejected(400, "verbose")
		}
	}
}
