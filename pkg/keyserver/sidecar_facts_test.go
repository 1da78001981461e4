package keyserver

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func TestResolve(t *testing.T) {
	f := setUp(t)
	f.account("a")
	keyID, plaintext := f.key("a", `,"scopes":["write","chat:companion"],"expires_at":"2999-01-01T00:00:00Z"`)
	revokedID, revoked := f.key("a", "")
	f.operator("POST", "/v1/keys/"+revokedID+"/revoke", "").want(200)
	session := f.operator("POST", "/v1/accounts/a/sessions", "").want(201)
	unknown := strings.Repeat("0", 64)

	r := f.sidecar("/v1/resolve", fmt.Sprintf(`{"credentials":[%q,%q,%q,%q,%q]}`,
		digestOf(plaintext), unknown, digestOf(revoked), digestOf(session.text("token")), digestOf(plaintext))).want(200)
	head := f.sidecar("/v1/changes", `{"sidecar":"x","poll":1,"after":-1}`).want(410)
	key := `{"sha256":"` + digestOf(plaintext) + `","found":true,"kind":"key","id":"` + keyID + `","state":"active","expires_at":"2999-01-01T00:00:00Z",` +
		`"scopes":["chat:companion","write"],"account":{"id":"a","state":"active"}}`
	want := fmt.Sprintf(`{"epoch":%q,"revision":%d,"credentials":[%s,`, head.text("epoch"), head.number("revision"), key) +
		`{"sha256":"` + unknown + `","found":false},` +
		`{"sha256":"` + digestOf(revoked) + `","found":true,"kind":"key","id":"` + revokedID + `","state":"revoked","expires_at":null,"scopes":[],"account":{"id":"a","state":"active"}},` +
		`{"sha256":"` + digestOf(session.text("token")) + `","found":true,"kind":"session","id":"` + session.text("session", "id") + `","state":"active",` +
		`"expires_at":"` + session.text("session", "expires_at") + `","scopes":[],"account":{"id":"a","state":"active"}},` + key + `]}`
	if r.raw != want {
		t.Errorf("got  %s\nwant %s", r.raw, want)
	}
	f.operator("POST", "/v1/accounts/a/terminate", "").want(200)
	if r := f.sidecar("/v1/resolve", fmt.Sprintf(`{"credentials":[%q]}`, digestOf(plaintext))); !strings.Contains(r.raw, `"account":{"id":"a","state":"terminated"}`) {
		t.Errorf("got %s", r.raw)
	}
}

func TestSidecarMistakes(t *testing.T) {
	f := setUp(t)
	digest := strings.Repeat("a", 64)
	many := `["` + strings.Repeat(digest+`","`, 1000) + digest + `"]`
	for _, m := range []struct{ path, body, names string }{
		{"/v1/resolve", ``, "credentials"},
		{"/v1/resolve", `{}`, "credentials"},
		{"/v1/resolve", `{"credentials":[]}`, "credentials"},
		{"/v1/resolve", `{"credentials":null}`, "credentials"},
		{"/v1/resolve", `{"credentials":` + many + `}`, "credentials"},
		{"/v1/resolve", `{"credentials":"` + digest + `"}`, "credentials"},
		{"/v1/resolve", `{"credentials":["` + digest + `","` + strings.ToUpper(digest) + `"]}`, "credentials[1]"},
		{"/v1/resolve", `{"credentials":["phk_plaintext"]}`, "credentials[0]"},
		{"/v1/resolve", `{"credentials":["` + digest + `"],"revision":1}`, "revision"},
		{"/v1/resolve", `{"credentials":["` + digest + `"],"credentials":["` + digest + `"]}`, "credentials"},
		{"/v1/changes", `{}`, "sidecar"},
		{"/v1/changes", `{"sidecar":"a"}`, "poll"},
		{"/v1/changes", `{"sidecar":"a","poll":1}`, "after"},
		{"/v1/changes", `{"poll":1,"after":0}`, "sidecar"},
		{"/v1/changes", `{"sidecar":"","poll":1,"after":0}`, "sidecar"},
		{"/v1/changes", `{"sidecar":"` + strings.Repeat("a", 129) + `","poll":1,"after":0}`, "sidecar"},
		{"/v1/changes", `{"sidecar":"a\u0000","poll":1,"after":0}`, "sidecar"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":-2}`, "after"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":"0"}`, "after"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":0.5}`, "after"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":0,"wait_ms":-1}`, "wait_ms"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":0,"wait_ms":30001}`, "wait_ms"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":0,"leave":true,"wait_ms":30001}`, "wait_ms"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":0,"leave":true,"max_stale_ms":-1}`, "max_stale_ms"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":0,"max_stale_ms":-1}`, "max_stale_ms"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":-1,"max_stale_ms":3600001}`, "max_stale_ms"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":-1,"max_stale_ms":9223372036854775807}`, "max_stale_ms"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":0,"leave":"yes"}`, "leave"},
		{"/v1/changes", `{"sidecar":"a","poll":1,"after":0,"timeout":1}`, "timeout"},
		{"/v1/changes", `{"sidecar":"a","after":0}`, "poll"},
		{"/v1/changes", `{"sidecar":"a","poll":null,"after":0}`, "poll"},
		{"/v1/changes", `{"sidecar":"a","poll":0,"after":0}`, "poll"},
		{"/v1/changes", `{"sidecar":"a","poll":-1,"after":-1}`, "poll"},
		{"/v1/changes", `{"sidecar":"a","poll":0,"after":0,"leave":true}`, "poll"},
		{"/v1/changes", `{"sidecar":"a","poll":"1","after":0}`, "poll"},
		{"/v1/changes", `{"sidecar":"a","poll":1.5,"after":0}`, "poll"},
		{"/v1/changes", `{"sidecar":"a","poll":9223372036854775808,"after":0}`, "poll"},
		{"/v1/usage", `{"sidecar":"a"}`, "used"},
		{"/v1/usage", `{"used":[]}`, "sidecar"},
		{"/v1/usage", `{"sidecar":"a","used":[{"last_used_at":"2026-01-01T00:00:00Z"}]}`, "used[0].sha256"},
		{"/v1/usage", `{"sidecar":"a","used":[{"sha256":"` + digest + `"}]}`, "used[0].last_used_at"},
		{"/v1/usage", `{"sidecar":"a","used":[{"sha256":"` + digest + `","last_used_at":"now"}]}`, "used[0].last_used_at"},
		{"/v1/usage", `{"sidecar":"a","used":[{"sha256":"` + digest + `","last_used_at":"2026-01-01T00:00:00Z","allowed":-1}]}`, "used[0].allowed"},
		{"/v1/usage", `{"sidecar":"a","used":[{"sha256":"` + digest + `","last_used_at":"2026-01-01T00:00:00Z","denied":-1}]}`, "used[0].denied"},
		{"/v1/usage", `{"sidecar":"a","used":[{"sha256":"` + digest + `","last_used_at":"2026-01-01T00:00:00Z","plaintext":"x"}]}`, "used[0].plaintext"},
	} {
		f.sidecar(m.path, m.body).rejected(400, m.names)
	}
	if got := f.operator("GET", "/v1/sidecars", "").raw; got != `{"sidecars":[],"next":null}` {
		t.Errorf("a rejected poll was recorded: %s", got)
	}
}

func TestUsage(t *testing.T) {
	f := setUp(t)
	f.account("a")
	id, plaintext := f.key("a", "")
	_, head := f.startSidecar("s", "")
	used := time.Now().UTC().Truncate(time.Second)
	body := fmt.Sprintf(`{"sidecar":"s","used":[{"sha256":%q,"last_used_at":%q,"allowed":3},{"sha256":%q,"last_used_at":%q,"denied":1}]}`,
		digestOf(plaintext), used.Format(time.RFC3339), strings.Repeat("0", 64), used.Format(time.RFC3339))
	if r := f.sidecar("/v1/usage", body).want(204); r.raw != "" {
		t.Errorf("204 with a body: %q", r.raw)
	}
	f.sidecar("/v1/usage", `{"sidecar":"s","used":[]}`).want(204)
	if got := f.operator("GET", "/v1/keys/"+id, "").text("key", "last_used_at"); got != used.Format(time.RFC3339) {
		t.Errorf("last_used_at %s, want %s", got, used)
	}
	if _, now := f.startSidecar("s", ""); now != head {
		t.Error("usage passed through the change log")
	}
	// A full report fits.
	entry := fmt.Sprintf(`{"sha256":%q,"last_used_at":"2026-01-01T00:00:00.123456789+01:00","allowed":9007199254740991,"denied":0}`, digestOf(plaintext))
	full := strings.Repeat(entry+",", 9999) + entry
	report := func(used string) reply {
		return f.sendUnchecked(sidecarsSide, request("POST", "/v1/usage", `{"sidecar":"s","used":[`+used+`]}`)) // comparing takes seconds
	}
	report(full).want(204)
	report(full+","+entry).rejected(400, "used")
}

// Operators and the owner of the key can read the reported usage.
func TestUsageQuery(t *testing.T) { synctest.Test(t, usageQuery) } // the clock must not pass an hour

func usageQuery(t *testing.T) {
	f := setUp(t)
	f.account("a")
	f.account("b")
	id, plaintext := f.key("a", "")
	path, owned := "/v1/keys/"+id+"/usage", own+"/"+id+"/usage"
	like(t, f.operator("GET", path, "").want(200).raw, `{"usage":[],"next":null}`)
	now := time.Now().UTC()
	used := fmt.Sprintf(`{"sidecar":"s","used":[{"sha256":%q,"last_used_at":%q,"allowed":3,"denied":2}]}`, digestOf(plaintext), now.Format(time.RFC3339))
	f.sidecar("/v1/usage", used).want(204)
	f.sidecar("/v1/usage", used).want(204)
	want := `{"usage":[{"hour":"` + now.Truncate(time.Hour).Format(time.RFC3339) + `","allowed":6,"denied":4}],"next":null}`
	from, until := "?from="+now.Truncate(time.Hour).Format(time.RFC3339), "?until="+now.Truncate(time.Hour).Format(time.RFC3339)
	for query, want := range map[string]string{
		"": want, "?limit=1": want, from: want, until: `{"usage":[],"next":null}`,
		from + "&until=9999-12-31T23:59:59Z": want, "?from=0000-01-01T00:00:00Z": want, "?from=9999-12-31T23:59:59-23:59": `{"usage":[],"next":null}`,
		"?from=" + url.QueryEscape(now.Truncate(time.Hour).In(time.FixedZone("", 3600)).Format(time.RFC3339)): want,
	} {
		for side, got := range map[string]reply{"operator": f.operator("GET", path+query, ""), "owner": f.owner("a", "GET", owned+query, "")} {
			if got.want(200).raw != want {
				t.Errorf("%s of %q: %s, want %s", side, query, got.raw, want)
			}
		}
	}
	unknown := f.owner("a", "GET", own+"/nope/usage", "")
	unknown.rejected(404)
	if other := f.owner("b", "GET", owned, ""); other.status != 404 || other.raw != unknown.raw {
		t.Errorf("another account's key: %d %s", other.status, other.raw)
	}
	f.owner("a", "GET", owned+"?from=1", "").rejected(400, "from")
	f.owner("a", "POST", owned, "").rejected(405)
	if kept := fmt.Sprintf("kept for %d days", keystore.UsageRetention/(24*time.Hour)); strings.Count(description, kept) != 2 {
		t.Errorf("the document does not mention twice: %s", kept)
	}
	if got := f.operator("GET", "/v1/audit?key="+id, "").at("events").([]any); len(got) != 1 {
		t.Errorf("usage is in the audit: %v", got)
	}
}
