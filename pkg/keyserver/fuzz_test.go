package keyserver

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// checkAnswer checks the rules of every answer.
func checkAnswer(t *testing.T, r reply, about string) {
	t.Helper()
	if r.status >= 500 || r.status < 200 {
		t.Fatalf("%s: %d %s", about, r.status, r.raw)
	}
	if r.status == http.StatusNoContent {
		return
	}
	if r.status == http.StatusGone || r.status < 300 {
		if !json.Valid([]byte(r.raw)) {
			t.Fatalf("%s: %d with %q", about, r.status, r.raw)
		}
		return
	}
	var e struct {
		Error      string `json:"error"`
		Message    string `json:"message"`
		StatusCode int    `json:"statusCode"`
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(r.raw)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil || dec.More() {
		t.Fatalf("%s: %d with %q: %v", about, r.status, r.raw, err)
	}
	if e.StatusCode != r.status || e.Error == "" || e.Error != errorNames[r.status] || e.Message == "" {
		t.Fatalf("%s: %d with %q", about, r.status, r.raw)
	}
}

// FuzzBodies sends one body to every operation of every side. No answer is a 5xx, and each is well formed.
func FuzzBodies(f *testing.F) {
	digest := strings.Repeat("a", 64)
	for _, seed := range []string{
		``, ` `, `{}`, `[]`, `null`, `{`, `{"":1}`, `{"/":{"~":0}}`, "\xff", "{\"\xff\":1}",
		`{"name":"x","id":"acc_1"}`, `{"name":"x\u0000"}`, `{"name":"\ud800"}`,
		`{"label":"x","scopes":["read","chat:companion"],"expires_at":"2999-01-01T00:00:00Z"}`,
		`{"label":"x","expires_at":"9999-12-31T23:59:59.999999999Z"}`,
		`{"label":"x","expires_at":"9999-12-31T23:59:59-23:59"}`,
		`{"label":"x","sha256":"` + digest + `"}`,
		`{"grace_seconds":604800}`, `{"grace_seconds":-9223372036854775808}`, `{"grace_seconds":1e2}`,
		`{"ttl_seconds":60}`, `{"ttl_seconds":9223372036854775807}`,
		`{"credentials":["` + digest + `"]}`,
		`{"sidecar":"s","poll":1,"after":-1,"wait_ms":0,"max_stale_ms":3600000}`,
		`{"sidecar":"s","poll":9223372036854775807,"after":9223372036854775807,"epoch":"e"}`,
		`{"sidecar":"s","poll":1,"after":0,"leave":true}`,
		`{"sidecar":"s","used":[{"sha256":"` + digest + `","last_used_at":"0001-01-01T00:00:00Z","allowed":9223372036854775807}]}`,
		`{"sidecar":"s","used":[{"sha256":"` + digest + `","last_used_at":"9999-12-31T23:59:59Z"}]}`,
	} {
		f.Add([]byte(seed))
	}
	s := setUp(f)
	s.account("a")
	s.operator("POST", "/v1/accounts/a/keys/import", `{"label":"x","sha256":"`+digest+`"}`).want(201)
	close(s.drain) // so that no poll waits
	sides := routesOf(s)
	for side, rows := range sides {
		sides[side] = slices.DeleteFunc(rows, func(r route) bool { return r.Method == http.MethodGet || r.Stream })
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s.t = t
		for side, rows := range sides {
			for _, row := range rows {
				var r reply
				switch side {
				case "operators":
					r = s.operator(row.Method, example(row.Path), string(body))
				case "owners":
					r = s.owner("a", row.Method, example(row.Path), string(body))
				case "sidecars":
					r = s.sidecar(row.Path, string(body))
				}
				checkAnswer(t, r, side+" "+row.Method+" "+row.Path)
			}
		}
		// What was stored can be listed.
		checkAnswer(t, s.operator("GET", "/v1/audit?limit=5", ""), "audit")
	})
}

// FuzzQueries sends one text to every GET operation, as the whole query and as a cursor.
func FuzzQueries(f *testing.F) {
	s := setUp(f)
	s.account("a")
	s.account("b")
	s.key("a", "")
	s.key("a", "")
	for _, list := range []string{"/v1/accounts", "/v1/accounts/a/keys", "/v1/audit"} {
		f.Add("limit=1", s.operator("GET", list+"?limit=1", "").want(200).text("next"))
	}
	for _, seed := range []string{"", "limit=1000&cursor=", "wait_ms=0", "a=b&a=c", "%zz", ";", "=", "limit=1&limit=1", "account=a&key=k", "from=2026-01-01T00:00:00Z&until=9999-12-31T23:59:59-23:59", "from=0000-01-01T00:00:00Z", "\x00"} {
		f.Add(seed, seed)
	}
	close(s.drain)
	rows := routesOf(s)["operators"]
	f.Fuzz(func(t *testing.T, query, cursor string) {
		s.t = t
		for _, row := range rows {
			if row.Method != http.MethodGet {
				continue
			}
			r := request(row.Method, example(row.Path), "")
			r.Header.Set("Authorization", "Bearer "+aliceToken)
			r.URL.RawQuery = query
			checkAnswer(t, s.do("operators", r), row.Path)
			checkAnswer(t, s.operator(row.Method, example(row.Path)+"?cursor="+url.QueryEscape(cursor), ""), row.Path+" with a cursor")
		}
	})
}
