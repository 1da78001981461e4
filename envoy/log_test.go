package envoy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// logEntry waits for the line of the access log about a path.
func (p *proxy) logEntry(t *testing.T, path string) map[string]any {
	t.Helper()
	var entry map[string]any
	err := p.AwaitLine(t.Context(), func(line string) bool {
		entry = nil
		return json.Unmarshal([]byte(line), &entry) == nil && entry["path"] == path
	})
	if err != nil {
		t.Fatalf("access log of %s: %v", path, err)
	}
	return entry
}

// denialFlag returns the response flag of a denial. Only ext_authz can set one.
func (p *proxy) denialFlag() string {
	if p.front == module {
		return "-"
	}
	return "UAEX"
}

func TestAccessLog(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		c := p.env.creds
		lookedUp := credential.Mint(credential.Key).Reveal() // no cache has it
		entries := []struct {
			name string
			request
			want map[string]any
		}{
			{"allowed", request{}.with(bearer(c.Chat)), map[string]any{
				"decision": "allow", "reason": "ok", "status": 200.0, "details": "via_upstream",
				"account_id": c.Account, "credential_id": c.ChatID, "principal": "key",
			}},
			{"session", request{}.with(webApp, cookie(c.Session)), map[string]any{
				"decision": "allow", "reason": "ok", "status": 200.0, "account_id": c.Account, "credential_id": c.SessionID, "principal": "session",
			}},
			{"scope", request{http2: true}.with(bearer(c.Plain)), map[string]any{
				"decision": "deny", "reason": "scope_missing", "status": 403.0, "details": "ext_authz_denied", "flags": p.denialFlag(),
				"account_id": c.Account, "credential_id": c.PlainID, "principal": "key",
			}},
			{"revoked", request{}.with(bearer(c.Revoked)), map[string]any{
				"decision": "deny", "reason": "key_revoked", "status": 401.0, "account_id": c.Account, "principal": "key",
			}},
			{"unknown", request{}.with(bearer(c.Unknown)), map[string]any{
				"decision": "deny", "reason": "key_unknown", "status": 401.0, "account_id": nil, "credential_id": nil,
			}},
			{"anonymous", request{}, map[string]any{"decision": "deny", "reason": "no_credential", "status": 401.0}},
			{"look-up", request{}.with(bearer(lookedUp)), map[string]any{"decision": "deny", "reason": "key_unknown", "status": 401.0}},
		}
		prefix := companion + "/log-of-"
		for _, l := range entries {
			l.path = prefix + l.name + "?api_key=" + c.Chat
			p.do(t, l.request)
		}
		for _, l := range entries {
			entry := p.logEntry(t, prefix+l.name)
			for field, want := range l.want {
				if diff := cmp.Diff(want, entry[field]); diff != "" {
					t.Errorf("%s: %s (-want +got):\n%s", l.name, field, diff)
				}
			}
			for _, field := range []string{"time", "request_id", "method", "protocol", "host", "client", "duration_ms"} {
				if entry[field] == nil {
					t.Errorf("%s: missing %s in %v", l.name, field, entry)
				}
			}
			text, _ := entry["check_us"].(string)
			if us, _ := strconv.Atoi(text); us < 1 && (p.front == authzd || l.name == "look-up") {
				t.Errorf("%s: check_us is %#v, want microseconds", l.name, entry["check_us"])
			}
		}
	})
}

// TestLogsContainNoSecret reads the logs of all programs after requests with each credential in each place.
func TestLogsContainNoSecret(t *testing.T) {
	env := shared(t)
	secrets := env.creds.Secrets()
	for _, p := range env.proxies {
		for _, secret := range secrets {
			p.do(t, request{path: companion + "?k=" + secret}.with(bearer(secret)))
			p.do(t, request{path: companion}.with(webApp, cookie(secret), "Referer: https://app.phantomrouter.ai/?k="+secret))
		}
		last := companion + "/last-request"
		p.do(t, request{path: last})
		p.logEntry(t, last)
	}
	logs, err := filepath.Glob(env.File("*.log"))
	if err != nil || len(logs) < 3 {
		t.Fatalf("logs %v, %v", logs, err)
	}
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := env.Canaries.Search(filepath.Base(log), text, false); err != nil {
			t.Error(err)
		}
	}
}
