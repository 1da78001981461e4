package envoy_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// entry finds the line of the access log that tells of a path.
func (f *front) entry(t *testing.T, path string) map[string]any {
	t.Helper()
	var found map[string]any
	eventually(t, "access log of "+path, func() error {
		log, err := os.Open(f.out)
		if err != nil {
			return err
		}
		defer func() { _ = log.Close() }()
		for lines := bufio.NewScanner(log); lines.Scan(); {
			var entry map[string]any
			if json.Unmarshal(lines.Bytes(), &entry) == nil && entry["path"] == path {
				found = entry
				return nil
			}
		}
		return errors.New("no such line")
	})
	return found
}

func TestAccessLog(t *testing.T) {
	onEachVersion(t, func(t *testing.T, f *front) {
		c := f.w.held
		for _, l := range []struct {
			name string
			request
			want map[string]any
		}{
			{"allowed", request{}.with(bearer(c.chat)), map[string]any{
				"decision": "allow", "reason": "ok", "status": 200.0, "details": "via_upstream",
				"account_id": c.account, "credential_id": c.chatID, "principal": "key",
			}},
			{"session", request{}.with(webApp, cookie(c.session)), map[string]any{
				"decision": "allow", "reason": "ok", "status": 200.0, "account_id": c.account, "credential_id": c.sessionID, "principal": "session",
			}},
			{"scope", request{}.with(bearer(c.plain)), map[string]any{
				"decision": "deny", "reason": "scope_missing", "status": 403.0, "details": "ext_authz_denied", "flags": "UAEX",
				"account_id": c.account, "credential_id": c.plainID, "principal": "key",
			}},
			{"revoked", request{}.with(bearer(c.revoked)), map[string]any{
				"decision": "deny", "reason": "key_revoked", "status": 401.0, "account_id": c.account, "principal": "key",
			}},
			{"unknown", request{}.with(bearer(c.unknown)), map[string]any{
				"decision": "deny", "reason": "key_unknown", "status": 401.0, "account_id": nil, "credential_id": nil,
			}},
			{"nobody", request{}, map[string]any{"decision": "deny", "reason": "no_credential", "status": 401.0}},
		} {
			path := companion + "/log-of-" + l.name
			l.path = path + "?api_key=" + c.chat
			l.http2 = l.name == "scope"
			f.ask(t, l.request)
			entry := f.entry(t, path)
			for field, want := range l.want {
				if diff := cmp.Diff(want, entry[field]); diff != "" {
					t.Errorf("%s: %s (-want +got):\n%s", l.name, field, diff)
				}
			}
			for _, field := range []string{"time", "request_id", "method", "protocol", "host", "client", "check_us", "duration_ms"} {
				if entry[field] == nil {
					t.Errorf("%s: no %s in %v", l.name, field, entry)
				}
			}
		}
	})
}

// TestNoLogHoldsASecret reads what every part has written so far, after requests
// with each credential in every place where one may stand.
func TestNoLogHoldsASecret(t *testing.T) {
	w := shared(t)
	c := w.held
	secrets := []string{c.plain, c.chat, c.revoked, c.expired, c.terminated, c.unknown, c.session, c.endedSession, "token-for-tests"}
	for _, f := range w.fronts {
		for _, secret := range secrets {
			f.ask(t, request{path: companion + "?k=" + secret}.with(bearer(secret)))
			f.ask(t, request{path: companion}.with(webApp, cookie(secret), "Referer: https://app.phantomrouter.ai/?k="+secret))
		}
		last := companion + "/last-before-the-logs-are-read"
		f.ask(t, request{path: last})
		f.entry(t, last)
	}
	for _, secret := range secrets[:8] {
		secrets = append(secrets, credential.NewSecret(secret).Digest().Hex())
	}
	var logs []string
	for _, pattern := range []string{"*.log", "*.out"} {
		found, err := filepath.Glob(w.file(pattern))
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, found...)
	}
	size := 0
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		size += len(text)
		for _, secret := range secrets {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s holds %s…", filepath.Base(log), secret[:8])
			}
		}
	}
	if size == 0 {
		t.Error("no log was found")
	}
}
