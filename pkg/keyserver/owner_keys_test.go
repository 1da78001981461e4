package keyserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const own = "/api/v1/me/keys"

func TestOwnersTable(t *testing.T) {
	f := setUp(t)
	f.account("a")
	f.account("b")
	other, _ := f.key("b", "")
	like(t, f.owner("a", "GET", own, "").want(200).raw, `{"keys":[],"next":null}`)

	minted := f.owner("a", "POST", own, `{"label":"mine","scopes":["write","read"],"expires_at":null}`).want(201)
	key := `{"id":"ID","account":"a","label":"mine","hint":"HINT","scopes":["read","write"],"state":"active","created_at":TIME,` +
		`"created_by":"owner:a","expires_at":null,"revoked_at":null,"last_used_at":null,"replaced_by":null}`
	like(t, minted.raw, `{"key":`+key+`,"plaintext":"SECRET","change":{"revision":REV,"effective":true,"effective_by":null}}`)
	id := minted.text("key", "id")
	like(t, f.owner("a", "GET", own, "").want(200).raw, `{"keys":[`+key+`],"next":null}`)
	f.owner("a", "GET", own+"?limit=0", "").rejected(400, "limit")
	next := f.operator("GET", "/v1/accounts?limit=1", "").text("next")
	f.owner("a", "GET", own+"?cursor="+next, "").rejected(400, "cursor")

	// A key of another account is not found.
	for _, who := range []struct{ account, key string }{{"a", other}, {"b", id}, {"a", "nope"}, {"nobody", id}} {
		f.owner(who.account, "DELETE", own+"/"+who.key, "").rejected(404)
		f.owner(who.account, "POST", own+"/"+who.key+"/roll", "").rejected(404)
	}
	f.owner("nobody", "GET", own, "").rejected(404)
	f.owner("nobody", "POST", own, `{"label":"x"}`).rejected(404)
	if f.operator("GET", "/v1/keys/"+other, "").text("key", "state") != "active" {
		t.Error("another account's key was changed")
	}

	f.owner("a", "POST", own+"/"+id+"/roll", `{"grace_seconds":86401}`).rejected(400, "grace_seconds", "86400")
	rolled := f.owner("a", "POST", own+"/"+id+"/roll", `{"grace_seconds":86400}`).want(201)
	if got := fmt.Sprint(rolled.at("key", "scopes")); got != "[read write]" {
		t.Errorf("the successor's scopes: %s", got)
	}
	id = rolled.text("key", "id")
	revoked := f.owner("a", "DELETE", own+"/"+id, "").want(200)
	if revoked.text("key", "state") != "revoked" || revoked.at("change", "effective") != true {
		t.Errorf("got %s", revoked.raw)
	}
	f.owner("a", "POST", own+"/"+id+"/roll", "").rejected(409)

	f.operator("POST", "/v1/accounts/a/terminate", "").want(200)
	f.owner("a", "POST", own, `{"label":"x"}`).rejected(409)
}

func TestOwnersLimit(t *testing.T) {
	f := setUp(t)
	f.account("a")
	var id string
	for range testSettings().KeysPerAccount {
		id = f.owner("a", "POST", own, `{"label":"x"}`).want(201).text("key", "id")
	}
	f.owner("a", "POST", own, `{"label":"x"}`).rejected(409, "3")
	f.key("a", "") // operators have no limit
	f.owner("a", "POST", own+"/"+id+"/roll", "").want(201)
	for _, key := range f.owner("a", "GET", own, "").at("keys").([]any) {
		if k := key.(map[string]any); k["state"] == "active" {
			f.owner("a", "DELETE", own+"/"+k["id"].(string), "").want(200)
		}
	}
	f.owner("a", "POST", own, `{"label":"x"}`).want(201)
}

// Every request needs the identity headers as Envoy sets them, each exactly once.
func TestOwnersNeedASession(t *testing.T) {
	f := setUp(t)
	f.account("a")
	for _, h := range []http.Header{
		{},
		{accountHeader: {"a"}},
		{accountHeader: {"a"}, principalHeader: {"key"}},
		{accountHeader: {"a"}, principalHeader: {""}},
		{accountHeader: {"a"}, principalHeader: {"Session"}},
		{accountHeader: {"a"}, principalHeader: {"session "}},
		{accountHeader: {"a"}, principalHeader: {"session,key"}},
		{accountHeader: {"a"}, principalHeader: {"session,session"}},
		{accountHeader: {"a"}, principalHeader: {"session", "session"}},
		{accountHeader: {"a"}, principalHeader: {"key", "session"}},
		{principalHeader: {"session"}},
		{accountHeader: {""}, principalHeader: {"session"}},
		{accountHeader: {"a", "a"}, principalHeader: {"session"}},
		{accountHeader: {"a", "b"}, principalHeader: {"session"}},
		{accountHeader: {"a,b"}, principalHeader: {"session"}},
		{accountHeader: {"a b"}, principalHeader: {"session"}},
		{accountHeader: {strings.Repeat("a", 65)}, principalHeader: {"session"}},
		{"Authorization": {"Bearer " + aliceToken}},
	} {
		for _, row := range f.ownerRoutes() {
			r := request(row.Method, example(row.Path), "")
			r.Header = h.Clone()
			f.do("owners", r).rejected(403)
		}
	}
	// A header with underscores is another header.
	r := request("GET", own, "")
	r.Header["X_phantom_account_id"] = []string{"a"}
	r.Header["X_phantom_principal"] = []string{"session"}
	f.do("owners", r).rejected(403)
}

// An owner cannot get a scope that only operators grant, by any field, query or path.
func TestNobodyGrantsHimself(t *testing.T) {
	const onlyOperators = "Scope is granted by operators only: chat:companion"
	f := setUp(t)
	f.account("a")
	id := f.owner("a", "POST", own, `{"label":"x","scopes":["read"]}`).want(201).text("key", "id")
	far := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for name, try := range map[string]struct {
		method, path, body string
		status             int
		names              string
	}{
		"plain":                     {"POST", own, `{"label":"x","scopes":["chat:companion"]}`, 403, onlyOperators},
		"with a scope of owners":    {"POST", own, `{"label":"x","scopes":["read","chat:companion"]}`, 403, onlyOperators},
		"twice":                     {"POST", own, `{"label":"x","scopes":["chat:companion","chat:companion"]}`, 403, onlyOperators},
		"escaped":                   {"POST", own, `{"label":"x","scopes":["chat\u003acompanion"]}`, 403, onlyOperators},
		"with an expiry":            {"POST", own, `{"label":"x","expires_at":"` + far + `","scopes":["chat:companion"]}`, 403, onlyOperators},
		"in capitals":               {"POST", own, `{"label":"x","scopes":["CHAT:COMPANION"]}`, 400, "scopes"},
		"with a space":              {"POST", own, `{"label":"x","scopes":["chat:companion "]}`, 400, "scopes"},
		"with a NUL":                {"POST", own, `{"label":"x","scopes":["chat:companion\u0000"]}`, 400, "scopes"},
		"with a line break":         {"POST", own, `{"label":"x","scopes":["\nchat:companion"]}`, 400, "scopes"},
		"two in one":                {"POST", own, `{"label":"x","scopes":["read chat:companion"]}`, 400, "scopes"},
		"two with a comma":          {"POST", own, `{"label":"x","scopes":["read,chat:companion"]}`, 400, "scopes"},
		"a wildcard":                {"POST", own, `{"label":"x","scopes":["*"]}`, 400, "scopes"},
		"a wildcard of chat":        {"POST", own, `{"label":"x","scopes":["chat:*"]}`, 400, "scopes"},
		"a prefix":                  {"POST", own, `{"label":"x","scopes":["chat"]}`, 400, "scopes"},
		"full-width colon":          {"POST", own, `{"label":"x","scopes":["chat：companion"]}`, 400, "scopes"},
		"Cyrillic letters":          {"POST", own, `{"label":"x","scopes":["сhаt:соmраniоn"]}`, 400, "scopes"},
		"a zero-width space":        {"POST", own, `{"label":"x","scopes":["chat:\u200bcompanion"]}`, 400, "scopes"},
		"a combining mark":          {"POST", own, `{"label":"x","scopes":["chat:companion\u0301"]}`, 400, "scopes"},
		"a ligature of Unicode":     {"POST", own, `{"label":"x","scopes":["chat:ｃompanion"]}`, 400, "scopes"},
		"a string":                  {"POST", own, `{"label":"x","scopes":"chat:companion"}`, 400, "scopes"},
		"an object":                 {"POST", own, `{"label":"x","scopes":{"chat:companion":true}}`, 400, "scopes"},
		"a nested list":             {"POST", own, `{"label":"x","scopes":[["chat:companion"]]}`, 400, "scopes"},
		"a null among them":         {"POST", own, `{"label":"x","scopes":[null]}`, 400, "scopes"},
		"the field twice":           {"POST", own, `{"label":"x","scopes":["read"],"scopes":["chat:companion"]}`, 400, "scopes"},
		"the field twice, first":    {"POST", own, `{"label":"x","scopes":["chat:companion"],"scopes":[]}`, 400, "scopes"},
		"the field twice, escaped":  {"POST", own, `{"label":"x","scopes":[],"scop\u0065s":["chat:companion"]}`, 400, "scopes"},
		"the field in capitals":     {"POST", own, `{"label":"x","Scopes":["chat:companion"]}`, 400, "Scopes"},
		"the field in the singular": {"POST", own, `{"label":"x","scope":"chat:companion"}`, 400, "scope"},
		"as an operator":            {"POST", own, `{"label":"x","created_by":"operator:alice","scopes":["read"]}`, 400, "created_by"},
		"for another account":       {"POST", own, `{"label":"x","account":"b"}`, 400, "account"},
		"as granted by an owner":    {"POST", own, `{"label":"x","granted_by":"owner"}`, 400, "granted_by"},
		"with a digest":             {"POST", own, `{"label":"x","sha256":"` + strings.Repeat("a", 64) + `"}`, 400, "sha256"},
		"two bodies":                {"POST", own, `{"label":"x"}{"label":"x","scopes":["chat:companion"]}`, 400, "body"},
		"in the query":              {"POST", own + "?scopes=chat:companion", `{"label":"x"}`, 400, "scopes"},
		"by a roll":                 {"POST", own + "/" + id + "/roll", `{"scopes":["chat:companion"]}`, 400, "scopes"},
		"by a roll's query":         {"POST", own + "/" + id + "/roll?scope=chat:companion", ``, 400, "scope"},
		"by an import":              {"POST", own + "/import", `{"label":"x","scopes":["chat:companion"],"sha256":"` + strings.Repeat("a", 64) + `"}`, 405, ""},
		"by the path of operators":  {"PUT", own + "/" + id + "/scopes/chat:companion", ``, 404, ""},
		"by the base of operators":  {"PUT", "/v1/keys/" + id + "/scopes/chat:companion", ``, 404, ""},
		"by an unclean path":        {"PUT", "/api/v1/me/keys/../../../../v1/keys/" + id + "/scopes/chat:companion", ``, 404, ""},
		"by an escaped path":        {"PUT", "/api/v1/me/keys/%2e%2e/%2e%2e/v1/keys/" + id + "/scopes/chat:companion", ``, 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := f.owner("a", try.method, try.path, try.body)
			r.t = t
			r.rejected(try.status, try.names)
		})
	}
	// Headers that claim scopes or another method change nothing.
	r := request("POST", own, `{"label":"x","scopes":["chat:companion"]}`)
	for name, value := range map[string]string{
		accountHeader: "a", principalHeader: "session", "X-Phantom-Scopes": "chat:companion",
		"Authorization": "Bearer " + aliceToken, "X-Http-Method-Override": "PUT", "X-Original-Url": "/v1/accounts/a/keys",
	} {
		r.Header.Set(name, value)
	}
	f.do("owners", r).rejected(403, onlyOperators)

	for _, key := range f.operator("GET", "/v1/accounts/a/keys", "").at("keys").([]any) {
		if got := fmt.Sprint(key.(map[string]any)["scopes"]); got != "[read]" {
			t.Errorf("the account has a key with %s", got)
		}
	}
}

// A roll moves a granted scope to the successor. It is the only way for an owner to get a key with it, and it does not
// multiply it.
func TestRollCarriesTheGrantOver(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id := f.owner("a", "POST", own, `{"label":"x"}`).text("key", "id")
	f.operator("PUT", "/v1/keys/"+id+"/scopes/chat:companion", "").want(200)
	r := f.owner("a", "POST", own+"/"+id+"/roll", "").want(201)
	if got := fmt.Sprint(r.at("key", "scopes")); got != "[chat:companion]" {
		t.Errorf("the successor has %s", got)
	}
	if r.text("replaced", "state") != "revoked" {
		t.Error("the old key is not revoked")
	}
}
