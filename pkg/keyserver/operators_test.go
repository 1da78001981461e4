package keyserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const stampPattern = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`

// like compares an answer with a pattern in which TIME stands for a moment, ID for
// an id, SECRET for a plaintext, and N for a revision.
func like(t *testing.T, got, pattern string) {
	t.Helper()
	p := regexp.QuoteMeta(pattern)
	p = strings.NewReplacer("TIME", `"`+stampPattern+`"`, "ID", `(key|ses|acc)_[0-9A-Za-z]{20}`,
		"SECRET", `ph[ks]_[0-9A-Za-z]{38}`, "HINT", `phk_[0-9A-Za-z]{4}`, "REV", `\d+`).Replace(p)
	if !regexp.MustCompile("^" + p + "$").MatchString(got) {
		t.Fatalf("got  %s\nwant %s", got, pattern)
	}
}

const effective = `{"revision":REV,"effective":true,"effective_by":null,"waiting_for":[]}`

func TestOperatorsTable(t *testing.T) {
	f := setUp(t)
	const active = `{"id":"a","name":"Ann","state":"active","created_at":TIME,"terminated_at":null}`

	like(t, f.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`).want(201).raw, `{"account":`+active+`}`)
	like(t, f.operator("POST", "/v1/accounts", `{"id":null,"name":"Ben"}`).want(201).raw,
		`{"account":{"id":"ID","name":"Ben","state":"active","created_at":TIME,"terminated_at":null}}`)
	f.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`).refused(409)
	like(t, f.operator("GET", "/v1/accounts/a", "").want(200).raw, `{"account":`+active+`}`)
	like(t, f.operator("GET", "/v1/accounts?limit=1000", "").want(200).raw,
		`{"accounts":[`+active+`,{"id":"ID","name":"Ben","state":"active","created_at":TIME,"terminated_at":null}],"next":null}`)

	minted := f.operator("POST", "/v1/accounts/a/keys", `{"label":"laptop","scopes":["write","chat:companion"],"expires_at":"2999-12-31T23:59:59+01:00"}`).want(201)
	like(t, minted.raw, `{"key":{"id":"ID","account":"a","label":"laptop","hint":"HINT","scopes":["chat:companion","write"],"state":"active","created_at":TIME,`+
		`"created_by":"operator:alice","expires_at":"2999-12-31T22:59:59Z","revoked_at":null,"last_used_at":null},"plaintext":"SECRET","change":`+effective+`}`)
	plaintext, id := minted.text("plaintext"), minted.text("key", "id")
	if credential.ShapeOf(plaintext) != credential.KeyShape || !strings.HasPrefix(plaintext, minted.text("key", "hint")) {
		t.Errorf("plaintext %q with hint %q", plaintext, minted.text("key", "hint"))
	}
	keyJSON := strings.TrimSuffix(strings.TrimPrefix(minted.raw, `{"key":`), minted.raw[strings.Index(minted.raw, `,"plaintext"`):])
	if got := f.operator("GET", "/v1/keys/"+id, "").want(200).raw; got != `{"key":`+keyJSON+`}` {
		t.Errorf("got %s, minted %s", got, keyJSON)
	}
	if got := f.operator("GET", "/v1/accounts/a/keys", "").want(200).raw; got != `{"keys":[`+keyJSON+`],"next":null}` {
		t.Errorf("got %s", got)
	}

	imported := f.operator("POST", "/v1/accounts/a/keys/import", `{"sha256":"`+strings.Repeat("ab", 32)+`","label":"old","scopes":null,"expires_at":null}`).want(201)
	like(t, imported.raw, `{"key":{"id":"ID","account":"a","label":"old","hint":null,"scopes":[],"state":"active","created_at":TIME,`+
		`"created_by":"operator:alice","expires_at":null,"revoked_at":null,"last_used_at":null},"change":`+effective+`}`)
	f.operator("POST", "/v1/accounts/a/keys/import", `{"sha256":"`+strings.Repeat("ab", 32)+`","label":"again"}`).refused(409)
	f.operator("POST", "/v1/accounts/a/keys/import", `{"sha256":"`+digestOf(plaintext)+`","label":"again"}`).refused(409)

	session := f.operator("POST", "/v1/accounts/a/sessions", `{}`).want(201)
	like(t, session.raw, `{"session":{"id":"ID","account":"a","created_at":TIME,"expires_at":TIME},"token":"SECRET"}`)
	if credential.ShapeOf(session.text("token")) != credential.SessionShape {
		t.Errorf("token %q", session.text("token"))
	}
	like(t, f.operator("DELETE", "/v1/sessions/"+session.text("session", "id"), "").want(200).raw,
		`{"session":{"id":"ID","account":"a","created_at":TIME,"expires_at":TIME},"change":`+effective+`}`)

	f.operator("POST", "/v1/accounts/a/terminate", "").want(200)
	like(t, f.operator("GET", "/v1/accounts/a", "").raw, `{"account":{"id":"a","name":"Ann","state":"terminated","created_at":TIME,"terminated_at":TIME}}`)
	like(t, f.operator("POST", "/v1/accounts/a/reinstate", "{}").want(200).raw, `{"account":`+active+`,"change":`+effective+`}`)
	like(t, f.operator("GET", "/v1/sidecars", "").want(200).raw, `{"sidecars":[]}`)
}

func TestKeyLife(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id, _ := f.key("a", "")

	granted := f.operator("PUT", "/v1/keys/"+id+"/scopes/chat:companion", "").want(200)
	if got := fmt.Sprint(granted.at("key", "scopes")); got != "[chat:companion]" {
		t.Errorf("scopes %s", got)
	}
	again := f.operator("PUT", "/v1/keys/"+id+"/scopes/chat%3Acompanion", "").want(200)
	if again.raw != granted.raw {
		t.Errorf("a repeated grant: %s\nwas: %s", again.raw, granted.raw)
	}
	f.operator("PUT", "/v1/keys/"+id+"/scopes/chat:companio", "").refused(400, "scope", "chat:companion, read, write")
	f.operator("DELETE", "/v1/keys/"+id+"/scopes/nonsense", "").refused(400, "scope", "chat:companion, read, write")
	ungranted := f.operator("DELETE", "/v1/keys/"+id+"/scopes/chat:companion", "").want(200)
	if got := fmt.Sprint(ungranted.at("key", "scopes")); got != "[]" {
		t.Errorf("scopes %s", got)
	}
	f.operator("PUT", "/v1/keys/"+id+"/scopes/read", "").want(200)

	rolled := f.operator("POST", "/v1/keys/"+id+"/roll", `{"grace_seconds":604800}`).want(201)
	like(t, rolled.raw, `{"key":{"id":"ID","account":"a","label":"test","hint":"HINT","scopes":["read"],"state":"active","created_at":TIME,`+
		`"created_by":"operator:alice","expires_at":null,"revoked_at":null,"last_used_at":null},"plaintext":"SECRET",`+
		`"replaced":{"id":"ID","account":"a","label":"test","hint":"HINT","scopes":["read"],"state":"active","created_at":TIME,`+
		`"created_by":"operator:alice","expires_at":TIME,"revoked_at":null,"last_used_at":null},"change":`+effective+`}`)
	if rolled.text("replaced", "id") != id {
		t.Error("replaced is not the old key")
	}
	head := f.operator("GET", fmt.Sprintf("/v1/revisions/%d", rolled.number("change", "revision")), "").want(200)
	like(t, head.raw, `{"change":`+effective+`}`)
	f.operator("GET", fmt.Sprintf("/v1/revisions/%d", rolled.number("change", "revision")+1), "").refused(404)

	second := rolled.text("key", "id")
	now := f.operator("POST", "/v1/keys/"+second+"/roll", "").want(201)
	if now.text("replaced", "state") != "revoked" {
		t.Error("a roll without grace does not revoke")
	}
	f.operator("POST", "/v1/keys/"+second+"/roll", "").refused(409)
	third := now.text("key", "id")
	revoked := f.operator("POST", "/v1/keys/"+third+"/revoke", "").want(200)
	if revoked.text("key", "state") != "revoked" || revoked.text("key", "revoked_at") == "" {
		t.Error("not revoked")
	}
	if again := f.operator("POST", "/v1/keys/"+third+"/revoke", "").want(200); again.raw != revoked.raw {
		t.Errorf("a repeated revoke: %s\nwas: %s", again.raw, revoked.raw)
	}
}

// A repeated operation tells of the change that made things so, not of the head.
func TestRepetitionKeepsTheRevision(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id, _ := f.key("a", "")
	revoked := f.operator("POST", "/v1/keys/"+id+"/revoke", "").number("change", "revision")
	f.key("a", "")
	if got := f.operator("POST", "/v1/keys/"+id+"/revoke", "").number("change", "revision"); got != revoked {
		t.Errorf("revision %d, want %d", got, revoked)
	}
	terminated := f.operator("POST", "/v1/accounts/a/terminate", "").number("change", "revision")
	f.account("b")
	if got := f.operator("POST", "/v1/accounts/a/terminate", "").number("change", "revision"); got != terminated {
		t.Errorf("revision %d, want %d", got, terminated)
	}
	session := f.operator("POST", "/v1/accounts/b/sessions", "").text("session", "id")
	ended := f.operator("DELETE", "/v1/sessions/"+session, "").number("change", "revision")
	f.account("c")
	if got := f.operator("DELETE", "/v1/sessions/"+session, "").number("change", "revision"); got != ended {
		t.Errorf("revision %d, want %d", got, ended)
	}
}

func TestTerminatedAccountTakesNothingNew(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id, _ := f.key("a", "")
	f.operator("POST", "/v1/accounts/a/terminate", "").want(200)
	f.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`).refused(409)
	f.operator("POST", "/v1/accounts/a/keys/import", `{"sha256":"`+strings.Repeat("0", 64)+`","label":"x"}`).refused(409)
	f.operator("POST", "/v1/keys/"+id+"/roll", "").refused(409)
	f.operator("PUT", "/v1/keys/"+id+"/scopes/read", "").refused(409)
	f.operator("POST", "/v1/accounts/a/sessions", "").refused(409)
	f.operator("POST", "/v1/keys/"+id+"/revoke", "").want(200)
}

func TestAudit(t *testing.T) {
	f := setUp(t)
	f.account("a")
	f.account("b")
	id, _ := f.key("a", `,"scopes":["read"]`)
	f.operator("POST", "/v1/keys/"+id+"/revoke", "").want(200)
	f.operator("POST", "/v1/keys/"+id+"/revoke", "").want(200) // no second event
	f.owner("a", "POST", "/api/v1/me/keys", `{"label":"own"}`).want(201)

	events := func(query string) (got []string) {
		for _, e := range f.operator("GET", "/v1/audit"+query, "").want(200).at("events").([]any) {
			event := e.(map[string]any)
			got = append(got, fmt.Sprint(event["actor"], " ", event["action"], " ", event["account"]))
		}
		return got
	}
	all := []string{"owner:a key.mint a", "operator:alice key.revoke a", "operator:alice key.mint a", "operator:alice account.create b", "operator:alice account.create a"}
	for query, want := range map[string][]string{
		"":                      all,
		"?account=b":            {all[3]},
		"?account=a":            {all[0], all[1], all[2], all[4]},
		"?key=" + id:            {all[1], all[2]},
		"?account=b&key=" + id:  nil,
		"?account=a&limit=1000": {all[0], all[1], all[2], all[4]},
	} {
		if got := events(query); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	like(t, f.operator("GET", "/v1/audit?key="+id, "").raw,
		`{"events":[{"at":TIME,"actor":"operator:alice","action":"key.revoke","account":"a","key":"ID","detail":{}},`+
			`{"at":TIME,"actor":"operator:alice","action":"key.mint","account":"a","key":"ID","detail":{"label":"test","scopes":"read"}}],"next":null}`)
	like(t, f.operator("GET", "/v1/audit?account=b", "").raw,
		`{"events":[{"at":TIME,"actor":"operator:alice","action":"account.create","account":"b","key":null,"detail":{"name":"test"}}],"next":null}`)
}

func TestPages(t *testing.T) {
	f := setUp(t)
	for i := range 5 {
		f.account(fmt.Sprintf("a%d", i))
		f.key("a0", "")
	}
	for _, list := range []struct {
		path, things string
		count        int
	}{
		{"/v1/accounts", "accounts", 5},
		{"/v1/accounts/a0/keys", "keys", 5},
		{"/v1/audit", "events", 10},
	} {
		var seen []string
		query := "?limit=2"
		for {
			r := f.operator("GET", list.path+query, "").want(200)
			page := r.at(list.things).([]any)
			if len(page) > 2 {
				t.Fatalf("%s: a page of %d", list.path, len(page))
			}
			for _, thing := range page {
				seen = append(seen, fmt.Sprint(thing))
			}
			if r.at("next") == nil {
				break
			}
			query = "?limit=2&cursor=" + url.QueryEscape(r.text("next"))
		}
		var whole []string
		for _, thing := range f.operator("GET", list.path, "").at(list.things).([]any) {
			whole = append(whole, fmt.Sprint(thing))
		}
		if len(seen) != list.count || !slices.Equal(seen, whole) {
			t.Errorf("%s: in pages\n%v\nwhole\n%v", list.path, seen, whole)
		}
	}
	other := f.operator("GET", "/v1/accounts?limit=1", "").text("next")
	f.operator("GET", "/v1/audit?cursor="+other, "").refused(400, "cursor")
	f.operator("GET", "/v1/accounts/a0/keys?cursor="+other, "").refused(400, "cursor")
	f.operator("GET", "/v1/accounts?cursor=nonsense", "").refused(400, "cursor")
	f.operator("GET", "/v1/accounts?cursor="+strings.Repeat("x", 2000), "").refused(400, "cursor")
	f.operator("GET", "/v1/accounts?cursor=", "").want(200)
}

// Each row: what is wrong, and what the message must name.
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
		{"POST", accounts, `null`, 400, "body"},
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
		{"POST", mint + "/import", `{"label":"x","sha256":"` + strings.Repeat("AB", 32) + `"}`, 400, "sha256"},
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
		f.operator(m.method, m.path, m.body).refused(m.status, m.names)
	}
	// None of these has left anything behind.
	if got := len(f.operator("GET", "/v1/accounts", "").at("accounts").([]any)); got != 1 {
		t.Errorf("%d accounts", got)
	}
	if got := len(f.operator("GET", mint, "").at("keys").([]any)); got != 2 {
		t.Errorf("%d keys", got)
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
			r.refused(400, "label")
		}
		r = f.operator("POST", "/v1/accounts", `{"name":`+string(raw)+`}`)
		if good {
			r.want(201)
		} else {
			r.refused(400, "name")
		}
	}
	for _, raw := range []string{"\"a\xffb\"", `"\ud800"`, "\"\xed\xa0\x80\""} {
		f.operator("POST", "/v1/accounts/a/keys", `{"label":`+raw+`}`).refused(400)
	}
}

// routesOf lists a side's rows with example paths.
func routesOf(f *fixture) map[string][]route {
	s := f.Server
	var operators []route
	for _, rows := range [][]route{s.accountRoutes(), s.keyRoutes(), s.sessionRoutes(), s.recordRoutes()} {
		operators = append(operators, rows...)
	}
	return map[string][]route{"operators": operators, "owners": s.ownerRoutes(), "sidecars": s.sidecarRoutes()}
}

func example(path string) string {
	return strings.NewReplacer("{id}", "a", "{scope}", "read", "{revision}", "1").Replace(path)
}

func TestMethodsAndMedia(t *testing.T) {
	f := setUp(t)
	ask := map[string]func(*http.Request){
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
			allowed[row.path] = append(allowed[row.path], row.method)
		}
		for path, methods := range allowed {
			r := request("PATCH", example(path), "")
			ask[side](r)
			got := f.do(side, r)
			got.refused(405)
			for _, m := range methods {
				if !strings.Contains(got.header.Get("Allow"), m) {
					t.Errorf("%s: allow %q lacks %s", path, got.header.Get("Allow"), m)
				}
			}
		}
		for _, row := range rows {
			if row.method == http.MethodGet {
				continue
			}
			for _, ct := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "nonsense;;"} {
				r := request(row.method, example(row.path), `{}`)
				r.Header.Del("Content-Type")
				if ct != "" {
					r.Header.Set("Content-Type", ct)
				}
				ask[side](r)
				f.do(side, r).refused(415, "application/json")
			}
			limit := int(row.limit)
			if limit == 0 {
				limit = 1 << 20
			}
			body := "{" + strings.Repeat(" ", limit-1) + "}"
			for _, length := range []int64{int64(len(body)), -1} {
				r := request(row.method, example(row.path), body)
				r.ContentLength = length
				ask[side](r)
				f.do(side, r).refused(413, fmt.Sprint(limit))
			}
			r := request(row.method, example(row.path), "{}")
			r.Header.Set("Content-Type", "application/json; charset=utf-8")
			ask[side](r)
			if got := f.do(side, r); got.status == 415 || got.status >= 500 {
				t.Errorf("%s %s: %d %s", row.method, row.path, got.status, got.raw)
			}
			r = request(row.method, example(row.path)+"?verbose", "")
			ask[side](r)
			f.do(side, r).refused(400, "verbose")
		}
	}
}

func TestHeadIsGet(t *testing.T) {
	f := setUp(t)
	f.operator("HEAD", "/v1/accounts", "").want(200)
	if got := f.operator("PATCH", "/v1/accounts", "").header.Get("Allow"); got != "GET, HEAD, POST" {
		t.Errorf("allow %q", got)
	}
}

// What has left the catalogue since it was granted can still be taken away.
func TestUngrantOutsideTheCatalogue(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id, _ := f.key("a", `,"scopes":["read"]`)
	settings := testSettings()
	settings.Catalogue = Catalogue{"chat:companion": ByOperator}
	f.Apply(settings)
	f.operator("PUT", "/v1/keys/"+id+"/scopes/read", "").refused(400, "scope", "chat:companion")
	f.operator("DELETE", "/v1/keys/"+id+"/scopes/read", "").want(200)
	f.operator("DELETE", "/v1/keys/"+id+"/scopes/read", "").refused(400, "scope", "chat:companion")
}
