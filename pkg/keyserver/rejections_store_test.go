package keyserver

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modernc.org/sqlite"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// stored is the content of the database, as another program reads it.
func (f *fixture) stored() string {
	f.t.Helper()
	db, err := sql.Open("sqlite", "file:"+f.path+"?mode=ro")
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var all strings.Builder
	for _, table := range []string{"head", "accounts", "keys", "sessions", "log", "events", "sidecars", "usage"} {
		fmt.Fprintln(&all, table)
		f.dump(&all, db, table)
	}
	return all.String()
}

func (f *fixture) dump(w io.Writer, db *sql.DB, table string) {
	f.t.Helper()
	rows, err := db.QueryContext(context.Background(), "SELECT * FROM "+table+" ORDER BY 1")
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		f.t.Fatal(err)
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			f.t.Fatal(err)
		}
		_, _ = fmt.Fprintln(w, values...)
	}
	if err := rows.Err(); err != nil {
		f.t.Fatal(err)
	}
}

// send sends an authenticated request to a side.
func (f *fixture) send(side string, r *http.Request) reply {
	f.t.Helper()
	switch side {
	case operatorsSide:
		r.Header.Set("Authorization", "Bearer "+aliceToken)
	case sidecarsSide:
		r.Header.Set("Authorization", "Bearer "+sidecarToken)
	case ownersSide:
		r.Header.Set(accountHeader, "a")
		r.Header.Set(principalHeader, "session")
	}
	return f.do(side, r)
}

// populate creates an account, keys and a session.
func (f *fixture) populate() (key, session, digest string) {
	f.t.Helper()
	f.account("a")
	key, plaintext := f.key("a", `,"scopes":["read"]`)
	f.key("a", "")
	session = f.operator("POST", "/v1/accounts/a/sessions", "").want(201).text("session", "id")
	return key, session, digestOf(plaintext)
}

// mistake is a mistake in a request, and the expected answer.
type mistake struct {
	what       string
	change     func(*http.Request)
	body       string
	status     int
	names      string // part of the message
	onlyWith   string // only on routes with this query parameter
	withFields bool   // only on routes whose body has fields
}

func mistakes() []mistake {
	query := func(q string) func(*http.Request) { return func(r *http.Request) { r.URL.RawQuery = q } }
	header := func(h, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(h, v) } }
	return []mistake{
		{what: "an unknown field", body: `{"unheard":1}`, status: 400, names: "unheard"},
		{what: "an unknown field after a good one", body: `{"label":"x","name":"x","sidecar":"s","unheard":{}}`, status: 400},
		{what: "not an object", body: `[]`, status: 400, names: "body"},
		{what: "half an object", body: `{"label":"x"`, status: 400},
		{what: "two objects", body: `{}{}`, status: 400, names: "body"},
		{what: "not UTF-8", body: "{\"\xff\":1}", status: 400},
		{what: "a field twice", body: `{"label":"x","label":"y"}`, status: 400, names: "label"},
		{what: "a bad time", body: `{"label":"x","expires_at":"2999-02-30T00:00:00Z"}`, status: 400, names: "expires_at", withFields: true},
		{what: "a time in words", body: `{"label":"x","expires_at":"tomorrow"}`, status: 400, names: "expires_at", withFields: true},
		{what: "a control character", body: `{"label":"a\u001bb"}`, status: 400, names: "label", withFields: true},
		{what: "wrong media type", body: `{}`, change: header("Content-Type", "text/plain"), status: 415, names: "application/json"},
		{what: "an unknown parameter", change: query("unheard=1"), status: 400, names: "unheard"},
		{what: "a parameter twice", change: query("wait_ms=1&wait_ms=1"), status: 400, names: "wait_ms", onlyWith: httpapi.WaitParam},
		{what: "too long a wait", change: query("wait_ms=60001"), status: 400, names: "wait_ms", onlyWith: httpapi.WaitParam},
		{what: "a malformed query", change: query("%zz"), status: 400, names: "query"},
	}
}

// Every mistake on every route of every side is rejected with an envelope and changes nothing.
func TestRejectedRequestsChangeNothing(t *testing.T) {
	f := setUp(t)
	key, session, digest := f.populate()
	f.startSidecar("s", "")
	before := f.stored()
	for side, rows := range routesOf(f) {
		for _, row := range rows {
			if row.Method == http.MethodGet {
				continue
			}
			target := strings.NewReplacer("/accounts/{id}", "/accounts/a", "/sessions/{id}", "/sessions/"+session, "{id}", key, "{scope}", "write", "{name}", "s").Replace(row.Path)
			for _, m := range mistakes() {
				hasLabel := strings.HasSuffix(row.Path, "/keys") || strings.HasSuffix(row.Path, "/import")
				if row.Stream {
					m.names = "" // the message names the line
				}
				if m.withFields && !hasLabel || m.onlyWith != "" && len(row.Query) == 0 {
					continue
				}
				body := m.body
				if m.withFields && strings.HasSuffix(row.Path, "/import") {
					body = strings.Replace(body, "{", `{"sha256":"`+strings.Repeat("1", 64)+`",`, 1)
				}
				if m.what == "a field twice" && !hasLabel {
					body = `{"unheard":1,"unheard":2}`
					m.names = "unheard"
				}
				r := request(row.Method, target, body)
				if m.change != nil {
					m.change(r)
				}
				f.send(side, r).rejected(m.status, m.names)
			}
			large := request(row.Method, target, `{"label":"`+strings.Repeat("x", int(max(row.MaxBody, httpapi.MaxBody)))+`"}`)
			f.send(side, large).rejected(413, "bytes")
		}
	}
	for _, m := range []struct{ path, body, names string }{
		{"/v1/changes", `{"sidecar":"a\u0007b","poll":1,"after":-1}`, "sidecar"},
		{"/v1/changes", `{"sidecar":"s","poll":1,"after":-1,"max_stale_ms":3600001}`, "max_stale_ms"},
		{"/v1/usage", `{"sidecar":"s","used":[{"sha256":"` + digest + `","last_used_at":"2026-01-01T00:00:00Z"},{"sha256":"` + digest + `","last_used_at":"2026-13-01T00:00:00Z"}]}`, "used[1].last_used_at"},
		{"/v1/usage", `{"sidecar":"s","used":[{"sha256":"` + digest + `","last_used_at":"2026-01-01T00:00:00Z"},{"sha256":"x","last_used_at":"2026-01-01T00:00:00Z"}]}`, "used[1].sha256"},
	} {
		f.sidecar(m.path, m.body).rejected(400, m.names)
	}
	if after := f.stored(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// A cursor is valid for the list that returned it only.
func TestCursorsOfOtherLists(t *testing.T) {
	f := setUp(t)
	id, _, _ := f.populate()
	f.account("b")
	f.key("b", "")
	f.key("b", "")
	f.startSidecar("s", "")
	f.startSidecar("t", "")
	lists := []struct{ side, path string }{
		{operatorsSide, "/v1/accounts"},
		{operatorsSide, "/v1/accounts/a/keys"},
		{operatorsSide, "/v1/accounts/b/keys"},
		{operatorsSide, "/v1/audit"},
		{operatorsSide, "/v1/audit?account=a"},
		{operatorsSide, "/v1/sidecars"},
		{operatorsSide, "/v1/keys/" + id + "/usage"},
		{ownersSide, "/api/v1/me/keys"}, // a's
	}
	same := map[string]string{"/api/v1/me/keys": "/v1/accounts/a/keys"}
	page := func(side, path, query string) reply {
		joint := "?"
		if strings.Contains(path, "?") {
			joint = "&"
		}
		return f.send(side, request("GET", path+joint+query, ""))
	}
	for _, from := range lists {
		if strings.HasSuffix(from.path, "/usage") {
			continue // it returns no cursor
		}
		next := page(from.side, from.path, "limit=1").want(200).text("next")
		for _, to := range lists {
			got := page(to.side, to.path, "cursor="+url.QueryEscape(next))
			if from == to || same[from.path] == to.path || same[to.path] == from.path {
				got.want(200)
			} else {
				got.rejected(400, "cursor")
			}
		}
	}
}

// hooks run on each new connection that writes to the file of that path.
var hooks sync.Map // of func(sqlite.ExecQuerierContext) error, by path

var registerHooks = sync.OnceFunc(func() {
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, dsn string) error {
		var err error
		hooks.Range(func(path, hook any) bool {
			if strings.Contains(dsn, path.(string)) && !strings.Contains(dsn, "_query_only") {
				err = hook.(func(sqlite.ExecQuerierContext) error)(conn)
			}
			return err == nil
		})
		return err
	})
})

// The database cannot be written. A request that is answered with 503 changes nothing, and reads succeed.
func TestDatabaseThatCannotBeWritten(t *testing.T) {
	registerHooks()
	var broken atomic.Bool
	for name, hook := range map[string]func(sqlite.ExecQuerierContext) error{
		"full": func(conn sqlite.ExecQuerierContext) error { // no more pages
			_, err := conn.ExecContext(context.Background(), "PRAGMA max_page_count = 1", nil)
			return err
		},
		"failing at the commit": func(conn sqlite.ExecQuerierContext) error {
			conn.(sqlite.HookRegisterer).RegisterCommitHook(func() int32 {
				if broken.Load() {
					return 1
				}
				return 0
			})
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken.Store(false)
			path := filepath.Join(t.TempDir(), "keys.db")
			var key, session, digest string
			t.Run("healthy", func(t *testing.T) {
				f := setUpAt(t, path, nil)
				key, session, digest = f.populate()
			})
			hooks.Store(path, hook)
			defer hooks.Delete(path)
			f := setUpAt(t, path, nil)
			broken.Store(true)
			f.fill()
			f.checkUnchanged(name != "full", key, session, digest)
		})
	}
}

// fill mints keys until the database is full.
func (f *fixture) fill() {
	f.t.Helper()
	body := `{"label":"` + strings.Repeat("ü", 200) + `"}`
	for range 2000 {
		if f.operator("POST", "/v1/accounts/a/keys", body).status == 503 {
			return
		}
	}
	f.t.Fatal("the database is not full")
}

func (f *fixture) checkUnchanged(all bool, key, session, digest string) {
	f.t.Helper()
	long := strings.Repeat("ü", 200)
	failed := 0
	for _, m := range []struct{ side, method, path, body string }{
		{operatorsSide, "POST", "/v1/accounts", `{"name":"` + long + `"}`},
		{operatorsSide, "POST", "/v1/accounts/a/keys", `{"label":"` + long + `"}`},
		{operatorsSide, "POST", "/v1/accounts/a/keys/import", `{"label":"` + long + `","sha256":"` + strings.Repeat("1", 64) + `"}`},
		{operatorsSide, "POST", "/v1/accounts/a/sessions", ``},
		{operatorsSide, "PUT", "/v1/keys/" + key + "/scopes/write", ``},
		{operatorsSide, "DELETE", "/v1/keys/" + key + "/scopes/read", ``},
		{operatorsSide, "POST", "/v1/keys/" + key + "/roll", `{"grace_seconds":60}`},
		{operatorsSide, "POST", "/v1/keys/" + key + "/revoke", ``},
		{operatorsSide, "DELETE", "/v1/sessions/" + session, ``},
		{operatorsSide, "POST", "/v1/accounts/a/terminate", ``},
		{operatorsSide, "POST", "/v1/accounts/a/reinstate", ``},
		{ownersSide, "POST", own, `{"label":"` + long + `"}`},
		{ownersSide, "POST", own + "/" + key + "/roll", ``},
		{ownersSide, "DELETE", own + "/" + key, ``},
		{sidecarsSide, "POST", "/v1/changes", `{"sidecar":"` + long[:128] + `","poll":1,"after":0,"leave":true}`},
		{sidecarsSide, "POST", "/v1/usage", `{"sidecar":"s","used":[{"sha256":"` + digest + `","last_used_at":"` + time.Now().UTC().Format(time.RFC3339) + `","allowed":1}]}`},
	} {
		before := f.stored()
		r := f.send(m.side, request(m.method, m.path, m.body))
		if r.status != 503 {
			if all && !strings.HasSuffix(m.path, "reinstate") { // nothing to do, because it is not terminated
				f.t.Errorf("%s %s: %d %s", m.method, m.path, r.status, r.raw)
			}
			continue
		}
		failed++
		r.rejected(503, unavailable)
		if after := f.stored(); after != before {
			f.t.Errorf("%s %s: before\n%s\nafter\n%s", m.method, m.path, before, after)
		}
	}
	if failed == 0 {
		f.t.Error("nothing failed: is the hook active?")
	}
	for _, path := range []string{"/v1/accounts", "/v1/keys/" + key, "/v1/accounts/a/keys", "/v1/audit", "/v1/sidecars", "/v1/revisions/1"} {
		f.operator("GET", path, "").want(200)
	}
	f.sidecar("/v1/resolve", `{"credentials":["`+digest+`"]}`).want(200)
	f.send(ownersSide, request("GET", own, "")).want(200)
}
