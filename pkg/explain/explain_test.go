package explain_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/explain"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

var key = credential.Mint(credential.Key)

// source has one key, which is not cached.
type source struct{ err error }

func (source) Cached(credential.Digest) (rec credential.Record, found, known bool) {
	return rec, false, false
}

func (s source) Lookup(_ context.Context, d credential.Digest) (rec credential.Record, found bool, err error) {
	if s.err != nil || d != key.Digest() {
		return rec, false, s.err
	}
	account := credential.Account{ID: "acc_1", State: credential.Active}
	return credential.Record{Kind: credential.Key, ID: "key_1", State: credential.Active, Account: account, ExpiresAt: time.Now().Add(time.Hour)}, true, nil
}

type noUsage struct{}

func (noUsage) Used(credential.Digest, bool, time.Time) { panic("counted as a use") }

// serve returns a client of a sidecar. The cache is in the given states, one after the other.
func serve(t *testing.T, s source, states ...explain.Cache) (*explain.Client, string) {
	t.Helper()
	rules := &extauthz.Rules{Origin: "https://app.example", CookieName: "c"}
	checker := extauthz.NewChecker(s, noUsage{}, rules, extauthz.NewMetrics(prometheus.NewRegistry(), nil))
	n := 0
	inspect := func(credential.Digest) explain.Cache {
		if n++; n > len(states) {
			return explain.Cache{Mode: "synced"}
		}
		return states[n-1]
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+explain.Path, explain.Handler(checker, inspect))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	client, err := explain.NewClient(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, server.URL
}

func request() explain.Request {
	any := "any"
	return explain.Request{
		Method: "GET", Path: "/a", Credential: explain.NewCredential(credential.Key, key),
		Requirement: &explain.Requirement{Principal: &any},
	}
}

func TestExplanationHasNoDigest(t *testing.T) {
	client, _ := serve(t, source{})
	e, text, err := client.Explain(t.Context(), request())
	if err != nil || e.Decision != "allow" || e.Record == nil || e.Record.ExpiresAt == nil || e.LookUp.Result != explain.Resolved {
		t.Errorf("%v %s", err, text)
	}
	digest := key.Digest()
	if bytes.Contains(text, []byte(digest.Hex())) || bytes.Contains(text, []byte(key.Reveal())) || !bytes.Contains(text, []byte(digest.String())) {
		t.Errorf("%s", text)
	}
}

func TestLookUpResults(t *testing.T) {
	entry := func(freshness string, age int64) explain.Cache {
		return explain.Cache{Entry: &explain.Cached{Freshness: freshness, AgeMS: age}}
	}
	for _, c := range []struct {
		about  string
		err    error
		states []explain.Cache
		want   string
	}{
		{"not cached", nil, nil, explain.Resolved},
		{"fresh", nil, []explain.Cache{entry("fresh", 5), entry("fresh", 5)}, explain.Hit},
		{"to be refreshed", nil, []explain.Cache{entry("refresh", 5), entry("refresh", 5)}, explain.Hit},
		{"revalidated", nil, []explain.Cache{entry("stale", 5000), entry("fresh", 1)}, explain.Resolved},
		{"served stale", nil, []explain.Cache{entry("stale", 5000), entry("stale", 5400)}, explain.ServedStale},
		{"rate limit", credential.ErrRateLimited, nil, explain.RateLimited},
		{"failure", errors.New("down"), nil, explain.Failed},
	} {
		client, _ := serve(t, source{c.err}, c.states...)
		e, _, err := client.Explain(t.Context(), request())
		if err != nil || e.LookUp.Result != c.want || (e.LookUp.Error != "") != (c.err != nil) {
			t.Errorf("%s: %v %+v", c.about, err, e.LookUp)
		}
	}
}

// A credential that is described wrongly is not taken for another one.
func TestRejectedRequests(t *testing.T) {
	_, url := serve(t, source{})
	digest := strings.Repeat("0", 64)
	const start = `{"method":"GET","path":"/","credential":`
	for _, c := range []struct {
		body, media, want string
		status            int
	}{
		{`{"method":"GET","path":"/"}`, "application/json; charset=utf-8", `"reason":"no_credential"`, 200},
		{start + `{"kind":"key","format":"foreign","sha256":"` + digest + `"}}`, "application/json", `"reason":"key_unknown"`, 200},
		{start + `{"kind":"key","format":"invalid"}}`, "application/json", `"reason":"malformed_authorization"`, 200},
		{`{}`, "text/plain", "content-type must be application/json", 415},
		{`{}`, "", "content-type must be application/json", 415},
		{`{}`, "application/json", "path and method must be given", 400},
		{`{"method":"GET","path":"/","key":"a"}`, "application/json", "is not a known field", 400},
		{`{"method":"GET"} {}`, "application/json", "is not valid JSON", 400},
		{start + `{"kind":"api","format":"key","sha256":"` + digest + `"}}`, "application/json", "credential.kind must be key or session", 400},
		{start + `{"kind":"key","format":"","sha256":"` + digest + `"}}`, "application/json", "credential.format must be", 400},
		{start + `{"kind":"key","format":"key","sha256":"0"}}`, "application/json", "credential.sha256 must be 64", 400},
		{start + `{"kind":"key","format":"key"}}`, "application/json", "credential.sha256 must be 64", 400},
		{strings.Repeat(" ", 200<<10), "application/json", "body cannot be read", 400},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+explain.Path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.media != "" {
			r.Header.Set("Content-Type", c.media)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, err = body.ReadFrom(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != c.status || !strings.Contains(body.String(), c.want) {
			t.Errorf("%.80s: %d %s %v, want %d %s", c.body, response.StatusCode, body.String(), err, c.status, c.want)
		}
	}
}

func TestFormats(t *testing.T) {
	secret := credential.NewSecret
	session := credential.Mint(credential.Session)
	for _, c := range []struct {
		kind   credential.Kind
		text   credential.Secret
		format string
	}{
		{credential.Key, key, explain.Key},
		{credential.Key, session, explain.Session},
		{credential.Session, session, explain.Session},
		{credential.Key, secret("sk-1"), explain.Foreign},
		{credential.Key, secret("phk_1"), explain.Malformed},
		{credential.Key, secret("a b"), explain.Invalid},
		{credential.Key, secret(""), explain.Invalid},
		{credential.Session, secret("a,b"), explain.Invalid},
	} {
		if got := explain.NewCredential(c.kind, c.text); got.Format != c.format || (got.SHA256 == "") != (c.format == explain.Invalid) {
			t.Errorf("%s: %+v, want %s", c.text.Reveal(), got, c.format)
		}
	}
	if got := explain.NewCredential(credential.Session, secret("")); got != nil {
		t.Errorf("an empty cookie is %+v", got)
	}
}

func TestClientErrors(t *testing.T) {
	for _, url := range []string{"", "http://", "https://x", "unix://x/y", "http://u:pw@x", "http://x?y", "\x00"} {
		if _, err := explain.NewClient(url); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for status, want := range map[int]string{403: "only clients on its own machine", 404: "must be a sidecar's listen.admin", 500: "status 500", 200: "answer is invalid"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		client, err := explain.NewClient(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := client.Explain(t.Context(), request()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %s", status, err, want)
		}
		client.Close()
		server.Close()
	}
}
