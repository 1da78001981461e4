package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/explain"
)

// explainTestbed is keyd, and an authzd whose admin listener is a Unix socket.
type explainTestbed struct {
	*testbed.Testbed
	t          *testing.T
	keyd       *testbed.Process
	creds      testbed.Credentials
	tcp, admin string // of two sidecars
}

func startExplainTestbed(t *testing.T) *explainTestbed {
	t.Helper()
	dir := t.TempDir()
	if err := testbed.Build(t.Context(), dir, "cmd/keyd", "cmd/authzd", "cmd/keyctl"); err != nil {
		t.Fatal(err)
	}
	tb, err := testbed.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tb.Close(context.Background()); err != nil { // searches the logs for keys and digests
			t.Error(err)
		}
	})
	b := &explainTestbed{Testbed: tb, t: t, admin: "unix://" + tb.Socket("admin")}
	if b.keyd, err = tb.StartKeyd(t.Context(), testbed.Config{"drain": "1s"}); err != nil {
		t.Fatal(err)
	}
	if b.creds, err = tb.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := testbed.Config{"drain": "1s", "endpoints": []testbed.Config{{"path": "/table", "principal": "key"}}}
	p, err := tb.StartAuthzd(t.Context(), "one", config)
	if err != nil {
		t.Fatal(err)
	}
	b.tcp = p.Admin()
	synced := func() error { // not /readyz: the first lease comes after the first answer
		if n, err := p.Metric(t.Context(), `phantom_authz_mode{mode="synced"}`); err != nil || n != 1 {
			return errors.Join(errors.New("not synced"), err)
		}
		return nil
	}
	if err := p.Await(t.Context(), synced); err != nil {
		t.Fatal(err)
	}
	return b
}

// keyctl runs keyctl explain with a credential in standard input, and searches its output for keys and digests.
func (b *explainTestbed) keyctl(stdin string, args ...string) (out string) {
	b.t.Helper()
	cmd := b.Command(b.t.Context(), "keyctl", append([]string{"explain"}, args...)...)
	cmd.Env = append(cmd.Environ(), "KEYCTL_SIDECAR="+b.tcp)
	cmd.Stdin = strings.NewReader(stdin)
	text, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Errorf("%v: %v\n%s", args, err, text)
	}
	if err := b.Canaries.Search("the output", text, false); err != nil {
		b.t.Error(err)
	}
	return string(text)
}

// line returns the value of a row.
func line(out, name string) string {
	for row := range strings.Lines(out) {
		if first, rest, _ := strings.Cut(row, "  "); first == name {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// TestExplain: keyctl, authzd and keyd as they are run.
func TestExplain(t *testing.T) {
	b := startExplainTestbed(t)
	const origin = "https://app.phantomrouter.ai"
	for _, c := range []struct {
		about, stdin string
		args         string
		want         map[string]string // rows, each of which contains the text
	}{
		{"first use", b.creds.Chat + "\n", "-path /a -require-scope chat:companion", map[string]string{
			"decision": "allow: ok", "credential": "key as Bearer: format of a key, checksum correct, SHA-256 ", "cache": "not cached", "mode": "synced: the lease ends in ",
			"key API": "answers", "look-up": "resolved by the key API in ", "record": "key " + b.creds.ChatID + ", active; account " + b.creds.Account + ", active; never expires; scopes: chat:companion",
			"requirement": "any with chat:companion, as given for Envoy's route", "answer": "allow, gRPC status 0",
		}},
		{"second use", b.creds.Chat, "-path /a -principal key", map[string]string{"cache": "fresh, revalidated ", "look-up": "cache hit"}},
		{"scope missing", b.creds.Plain, "-path /a -require-scope chat:companion", map[string]string{
			"decision": "deny: scope_missing", "answer": "403, gRPC status 7", "body": `{"error":"FORBIDDEN","message":"Missing required scope: chat:companion","statusCode":403}`,
			"header": "cache-control: no-store",
		}},
		{"no credential", "", "-path /a -principal any", map[string]string{"decision": "deny: no_credential", "credential": "none", "look-up": "not needed", "record": "-"}},
		{"endpoint table", b.creds.Plain, "-path /table?x", map[string]string{"decision": "allow: ok", "requirement": "key, from the sidecar's endpoint table"}},
		{"no requirement", b.creds.Plain, "-path /other", map[string]string{"decision": "deny: no_policy", "requirement": "none that a credential can meet"}},
		{"revoked", b.creds.Revoked, "-path /a -principal any", map[string]string{"decision": "deny: key_revoked", "record": ", revoked; account"}},
		{"terminated", b.creds.Terminated, "-path /a -principal any", map[string]string{"decision": "deny: account_terminated", "record": ", terminated; never"}},
		{"unknown", b.creds.Unknown, "-path /a -principal any", map[string]string{"decision": "deny: key_unknown", "record": "none: the key API does not have this credential"}},
		{"unknown again", b.creds.Unknown, "-path /a -principal any", map[string]string{"cache": "pool of unknown and no longer valid credentials", "look-up": "cache hit"}},
		{"misspelt", b.creds.Plain[:len(b.creds.Plain)-1] + "-", "-path /a -principal any", map[string]string{
			"decision": "deny: key_unknown", "credential": "prefix of ours, length or checksum wrong", "look-up": "not needed: the request alone decides",
		}},
		{"invalid", "two words", "-path /a -principal any", map[string]string{"decision": "deny: malformed_authorization", "credential": "value not valid in its place"}},
		{"session", b.creds.Session, "-path /a -principal session -origin " + origin, map[string]string{"decision": "allow: ok", "credential": "session as cookie: ", "record": "session " + b.creds.SessionID}},
		{"session of a page", b.creds.Session, "-path /a -principal session -sec-fetch-site same-origin", map[string]string{"decision": "allow: ok"}},
		{"session without an origin", b.creds.Session, "-path /a -principal session", map[string]string{"decision": "deny: session_origin"}},
		{"session as a key", b.creds.Session, "-path /a -principal any -as key", map[string]string{"decision": "deny: key_unknown", "credential": "key as Bearer: format of a session"}},
		{"key for a session", b.creds.Chat, "-path /a -principal session -method POST -host api.example", map[string]string{"decision": "deny: session_required"}},
	} {
		out := b.keyctl(c.stdin, strings.Fields(c.args)...)
		for row, want := range c.want {
			if !strings.Contains(line(out, row), want) {
				t.Errorf("%s: %s is %q, want %q in\n%s", c.about, row, line(out, row), want, out)
			}
		}
	}
	var e explain.Explanation
	out := b.keyctl(b.creds.Plain, "-path", "/a", "-principal", "any", "-o", "json")
	if err := json.Unmarshal([]byte(out), &e); err != nil || e.Decision != "allow" || e.Record.ID != b.creds.PlainID || e.Answer.Headers["x-phantom-credential-id"] != b.creds.PlainID {
		t.Errorf("%v\n%s", err, out)
	}
	b.outage()
	b.admins()
}

// outage stops keyd: what is cached answers, the rest is unavailable.
func (b *explainTestbed) outage() {
	b.t.Helper()
	if code, err := b.keyd.Stop(os.Interrupt); code != 0 || err != nil {
		b.t.Fatalf("exit code %d, %v", code, err)
	}
	unseen := b.UnknownKey().Reveal()
	err := testbed.Until(b.t.Context(), func() error {
		out := b.keyctl(unseen, "-path", "/a", "-principal", "any")
		if line(out, "decision") != "deny: unavailable" || !strings.HasPrefix(line(out, "key API"), "down") || !strings.HasPrefix(line(out, "look-up"), "failed after ") {
			return errors.New(out)
		}
		return nil
	})
	if err != nil {
		b.t.Error(err)
	}
	if out := b.keyctl(b.creds.Plain, "-path", "/a", "-principal", "any"); line(out, "decision") != "allow: ok" {
		b.t.Errorf("cached: %s", out)
	}
}

// admins: a Unix socket, and a listener that is not a sidecar's.
func (b *explainTestbed) admins() {
	b.t.Helper()
	config := testbed.Config{"listen": testbed.Config{"check": []string{"unix://" + b.Socket("two")}, "admin": b.admin}, "start_wait": "0s", "drain": "1s"}
	p, err := b.StartAuthzd(b.t.Context(), "two", config)
	if err != nil {
		b.t.Fatal(err)
	}
	if out := b.keyctl(b.creds.Plain, "-path", "/a", "-principal", "any", "-sidecar", b.admin); line(out, "decision") != "deny: unavailable" || !strings.HasPrefix(line(out, "mode"), "cold") {
		b.t.Errorf("by a Unix socket: %s", out)
	}
	p.Shutdown(10 * time.Second)
}
