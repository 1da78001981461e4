package keyserver

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const stampPattern = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`

// like compares an answer with a pattern in which TIME means a time, ID an id, SECRET a plaintext, HINT a hint and REV
// a revision.
func like(t *testing.T, got, pattern string) {
	t.Helper()
	p := regexp.QuoteMeta(pattern)
	p = strings.NewReplacer("TIME", `"`+stampPattern+`"`, "ID", `(key|ses|acc)_[0-9A-Za-z]{20}`,
		"SECRET", `ph[ks]_[0-9A-Za-z]{38}`, "HINT", `phk_[0-9A-Za-z]{4}`, "REV", `\d+`).Replace(p)
	if !regexp.MustCompile("^" + p + "$").MatchString(got) {
		t.Fatalf("got  %s\nwant %s", got, pattern)
	}
}

const effective = `{"revision":REV,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}`

func TestOperatorsTable(t *testing.T) {
	f := setUp(t)
	const active = `{"id":"a","name":"Ann","state":"active","created_at":TIME,"terminated_at":null}`

	like(t, f.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`).want(201).raw, `{"account":`+active+`}`)
	like(t, f.operator("POST", "/v1/accounts", `{"id":null,"name":"Ben"}`).want(201).raw,
		`{"account":{"id":"ID","name":"Ben","state":"active","created_at":TIME,"terminated_at":null}}`)
	f.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`).rejected(409)
	like(t, f.operator("GET", "/v1/accounts/a", "").want(200).raw, `{"account":`+active+`}`)
	like(t, f.operator("GET", "/v1/accounts?limit=1000", "").want(200).raw,
		`{"accounts":[`+active+`,{"id":"ID","name":"Ben","state":"active","created_at":TIME,"terminated_at":null}],"next":null}`)

	minted := f.operator("POST", "/v1/accounts/a/keys", `{"label":"laptop","scopes":["write","chat:companion"],"expires_at":"2999-12-31T23:59:59+01:00"}`).want(201)
	like(t, minted.raw, `{"key":{"id":"ID","account":"a","label":"laptop","hint":"HINT","scopes":["chat:companion","write"],"state":"active","created_at":TIME,`+
		`"created_by":"operator:alice","expires_at":"2999-12-31T22:59:59Z","revoked_at":null,"last_used_at":null,"replaced_by":null},"plaintext":"SECRET","change":`+effective+`}`)
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
		`"created_by":"operator:alice","expires_at":null,"revoked_at":null,"last_used_at":null,"replaced_by":null},"change":`+effective+`}`)
	f.operator("POST", "/v1/accounts/a/keys/import", `{"sha256":"`+strings.Repeat("ab", 32)+`","label":"again"}`).rejected(409)
	f.operator("POST", "/v1/accounts/a/keys/import", `{"sha256":"`+digestOf(plaintext)+`","label":"again"}`).rejected(409)

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
	like(t, f.operator("GET", "/v1/sidecars", "").want(200).raw, `{"sidecars":[],"next":null}`)
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
	f.operator("PUT", "/v1/keys/"+id+"/scopes/chat:companio", "").rejected(400, "scope", "chat:companion, read, write")
	f.operator("DELETE", "/v1/keys/"+id+"/scopes/nonsense", "").rejected(400, "scope", "chat:companion, read, write")
	ungranted := f.operator("DELETE", "/v1/keys/"+id+"/scopes/chat:companion", "").want(200)
	if got := fmt.Sprint(ungranted.at("key", "scopes")); got != "[]" {
		t.Errorf("scopes %s", got)
	}
	f.operator("PUT", "/v1/keys/"+id+"/scopes/read", "").want(200)

	rolled := f.operator("POST", "/v1/keys/"+id+"/roll", `{"grace_seconds":604800}`).want(201)
	like(t, rolled.raw, `{"key":{"id":"ID","account":"a","label":"test","hint":"HINT","scopes":["read"],"state":"active","created_at":TIME,`+
		`"created_by":"operator:alice","expires_at":null,"revoked_at":null,"last_used_at":null,"replaced_by":null},"plaintext":"SECRET",`+
		`"replaced":{"id":"ID","account":"a","label":"test","hint":"HINT","scopes":["read"],"state":"active","created_at":TIME,`+
		`"created_by":"operator:alice","expires_at":TIME,"revoked_at":null,"last_used_at":null,"replaced_by":"ID"},"change":`+effective+`}`)
	if rolled.text("replaced", "id") != id {
		t.Error("replaced is not the old key")
	}
	head := f.operator("GET", fmt.Sprintf("/v1/revisions/%d", rolled.number("change", "revision")), "").want(200)
	like(t, head.raw, `{"change":`+effective+`}`)
	f.operator("GET", fmt.Sprintf("/v1/revisions/%d", rolled.number("change", "revision")+1), "").rejected(404)

	second := rolled.text("key", "id")
	now := f.operator("POST", "/v1/keys/"+second+"/roll", "").want(201)
	if now.text("replaced", "state") != "revoked" {
		t.Error("a roll without grace did not revoke")
	}
	f.operator("POST", "/v1/keys/"+second+"/roll", "").rejected(409)
	third := now.text("key", "id")
	revoked := f.operator("POST", "/v1/keys/"+third+"/revoke", "").want(200)
	if revoked.text("key", "state") != "revoked" || revoked.text("key", "revoked_at") == "" {
		t.Error("not revoked")
	}
	if again := f.operator("POST", "/v1/keys/"+third+"/revoke", "").want(200); again.raw != revoked.raw {
		t.Errorf("a repeated revoke: %s\nwas: %s", again.raw, revoked.raw)
	}
}

// A repeated operation returns the revision of the change that it repeats, not the head.
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

func TestTerminatedAccountRejectsNewCredentials(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id, _ := f.key("a", "")
	f.operator("POST", "/v1/accounts/a/terminate", "").want(200)
	f.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`).rejected(409)
	f.operator("POST", "/v1/accounts/a/keys/import", `{"sha256":"`+strings.Repeat("0", 64)+`","label":"x"}`).rejected(409)
	f.operator("POST", "/v1/keys/"+id+"/roll", "").rejected(409)
	f.operator("PUT", "/v1/keys/"+id+"/scopes/read", "").rejected(409)
	f.operator("POST", "/v1/accounts/a/sessions", "").rejected(409)
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
		path, field string
		count       int
	}{
		{"/v1/accounts", "accounts", 5},
		{"/v1/accounts/a0/keys", "keys", 5},
		{"/v1/audit", "events", 10},
	} {
		var seen []string
		query := "?limit=2"
		for {
			r := f.operator("GET", list.path+query, "").want(200)
			page := r.at(list.field).([]any)
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
		for _, thing := range f.operator("GET", list.path, "").at(list.field).([]any) {
			whole = append(whole, fmt.Sprint(thing))
		}
		if len(seen) != list.count || !slices.Equal(seen, whole) {
			t.Errorf("%s: in pages\n%v\nwhole\n%v", list.path, seen, whole)
		}
	}
	other := f.operator("GET", "/v1/accounts?limit=1", "").text("next")
	f.operator("GET", "/v1/audit?cursor="+other, "").rejected(400, "cursor")
	f.operator("GET", "/v1/accounts/a0/keys?cursor="+other, "").rejected(400, "cursor")
	f.operator("GET", "/v1/accounts?cursor=nonsense", "").rejected(400, "cursor")
	f.operator("GET", "/v1/accounts?cursor="+strings.Repeat("x", 2000), "").rejected(400, "cursor")
	f.operator("GET", "/v1/accounts?cursor=", "").want(200)
}

// A scope that is no longer in the catalogue can still be removed from a key.
func TestUngrantOutsideTheCatalogue(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id, _ := f.key("a", `,"scopes":["read"]`)
	settings := testSettings()
	settings.Catalogue = Catalogue{"chat:companion": ByOperator}
	f.Apply(settings)
	f.operator("PUT", "/v1/keys/"+id+"/scopes/read", "").rejected(400, "scope", "chat:companion")
	f.operator("DELETE", "/v1/keys/"+id+"/scopes/read", "").want(200)
	f.operator("DELETE", "/v1/keys/"+id+"/scopes/read", "").rejected(400, "scope", "chat:companion")
}
