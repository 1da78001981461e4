package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// startMinting starts an API that responds to every request with a minted key whose change is not
// effective, and returns the environment for keyctl.
func startMinting(t *testing.T) func(string) string {
	const answer = `{"key":{"id":"key_1","account":"acc_1","label":"x","hint":"phk_AbCd","scopes":[],"state":"active","created_at":"2026-01-02T03:04:05Z",` +
		`"created_by":"operator:alice","expires_at":null,"revoked_at":null,"last_used_at":null},"plaintext":"phk_the-plaintext",` +
		`"change":{"revision":7,"effective":false,"effective_by":"2026-01-02T03:19:05Z","waiting_for":["pod-a"]}}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusCreated)
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(server.Close)
	token := filepath.Join(t.TempDir(), "alice.token")
	if err := os.WriteFile(token, []byte("t"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(name string) string {
		return map[string]string{"KEYCTL_URL": server.URL, "KEYCTL_TOKEN_FILE": token}[name]
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestUnprintedKeyIsReported(t *testing.T) {
	for _, format := range []string{"table", "json"} {
		var messages bytes.Buffer
		code := run(t.Context(), []string{"key", "mint", "-account", "acc_1", "-label", "x", "-o", format}, startMinting(t),
			console{out: fullDisk{}, err: &messages})
		if code != exitFailed || !strings.Contains(messages.String(), "no space left on device") ||
			!strings.Contains(messages.String(), "revoke it with `keyctl key revoke -id key_1`") {
			t.Errorf("-o %s: exit code %d, messages %s", format, code, &messages)
		}
		if strings.Contains(messages.String(), "the-plaintext") {
			t.Errorf("-o %s: the plaintext is in %s", format, &messages)
		}
	}
}

// stopper cancels a context when the text has been written.
type stopper struct {
	mu   sync.Mutex
	all  bytes.Buffer
	text string
	stop context.CancelFunc
}

func (s *stopper) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.all.Write(p)
	if strings.Contains(s.all.String(), s.text) {
		s.stop()
	}
	return n, err
}

func TestInterruptedWaitPrintsKeyAndState(t *testing.T) {
	for format, plaintext := range map[string]string{"table": "phk_the-plaintext\n", "json": `"plaintext": "phk_the-plaintext"`} {
		ctx, stop := context.WithCancel(t.Context())
		messages := &stopper{text: "revision 7 waits for pod-a", stop: stop}
		var out bytes.Buffer
		code := run(ctx, []string{"key", "mint", "-account", "acc_1", "-label", "x", "-wait", "1h", "-o", format}, startMinting(t),
			console{out: &out, err: messages})
		if code != exitNotEffective || !strings.Contains(out.String(), plaintext) ||
			!strings.HasSuffix(messages.all.String(), "keyctl: not yet effective: revision 7 waits for pod-a; effective by 2026-01-02T03:19:05Z at the latest\n") {
			t.Errorf("-o %s: exit code %d, printed %s, messages %s", format, code, &out, &messages.all)
		}
	}
}
