package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func TestMintAndRevoke(t *testing.T) {
	config := configure(t, "")
	p := launch(t, config)
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	minted := p.operator("POST", "/v1/accounts/a/keys", `{"label":"laptop","scopes":["chat:companion"]}`)
	plaintext, id := minted["plaintext"].(string), minted["key"].(map[string]any)["id"].(string)
	digest := credential.NewSecret(plaintext).Digest().Hex()

	state := func() string {
		_, v := p.ask("sidecars", sidecarToken, "POST", "/v1/resolve", `{"credentials":["`+digest+`"]}`)
		return v["credentials"].([]any)[0].(map[string]any)["state"].(string)
	}
	if got := state(); got != "active" {
		t.Errorf("state %q", got)
	}
	p.operator("POST", "/v1/keys/"+id+"/revoke?wait_ms=1000", "")
	if got := state(); got != "revoked" {
		t.Errorf("state %q", got)
	}
	if status, _ := p.ask("operators", "canary-wrong-token", "GET", "/v1/accounts", ""); status != 401 {
		t.Errorf("a wrong token: %d", status)
	}
	if status, v := p.ownerGet(filepath.Dir(config)+"/owners.sock", "a"); status != 200 || !strings.Contains(v, id) {
		t.Errorf("the owners' side: %d %s", status, v)
	}
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		resp, err := http.Get("http://" + p.addr["listen.admin"] + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit %d", code)
	}
	for _, secret := range []string{plaintext, digest, aliceToken, sidecarToken, "canary-wrong-token"} {
		if strings.Contains(p.logged(), secret) {
			t.Errorf("the log holds what begins with %.8s", secret)
		}
	}
}

// ownerGet lists an account's keys as Envoy asks for them.
func (p *process) ownerGet(socket, account string) (int, string) {
	p.t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequest("GET", "http://keyd/api/v1/me/keys", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("x-phantom-account-id", account)
	r.Header.Set("x-phantom-principal", "session")
	resp, err := transport.RoundTrip(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// A stop answers the long polls at once; the next process knows the sidecars' leases
// and stale times, and what it was told is still there.
func TestRestart(t *testing.T) {
	config := configure(t, "drain: 20s\n")
	p := launch(t, config)
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	id := p.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`)["key"].(map[string]any)["id"].(string)
	_, first := p.poll(-1, "", 0)
	epoch, head := first["epoch"].(string), int64(first["revision"].(float64))

	answered := make(chan map[string]any, 1)
	began := time.Now()
	go func() {
		_, v := p.poll(head, epoch, 15*time.Second)
		answered <- v
	}()
	// The long poll is under way once its lease is on record.
	for {
		list := p.operator("GET", "/v1/sidecars", "")["sidecars"].([]any)
		ends, err := time.Parse(time.RFC3339, list[0].(map[string]any)["lease_ends_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		if ends.After(began.Add(15 * time.Second)) {
			break
		}
	}
	before := p.operator("GET", "/v1/sidecars", "")
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit %d", code)
	}
	v := <-answered
	if took := time.Since(began); took > 10*time.Second || v["lease_ms"] != 15000.0 || len(v["changes"].([]any)) != 0 {
		t.Errorf("the long poll: %v after %s", v, took)
	}

	p = launch(t, config)
	if after := p.operator("GET", "/v1/sidecars", ""); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("sidecars after the restart %v, before %v", after, before)
	}
	change := p.operator("POST", "/v1/keys/"+id+"/revoke", "")["change"].(map[string]any)
	if change["effective"] != false || fmt.Sprint(change["waiting_for"]) != "[s]" {
		t.Errorf("change %v", change)
	}
	status, v := p.poll(head, epoch, 15*time.Second)
	if status != 200 || len(v["changes"].([]any)) != 1 {
		t.Errorf("poll: %d %v", status, v)
	}
	p.poll(head+1, epoch, 0)
	got := p.operator("GET", fmt.Sprintf("/v1/revisions/%d?wait_ms=5000", head+1), "")["change"].(map[string]any)
	if got["effective"] != true {
		t.Errorf("change %v", got)
	}
	if code := p.stop(syscall.SIGINT); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// The database file is deleted under a keyd that runs: it takes no changes and no polls, is not
// ready, and says so once in the log.
func TestDatabaseFileDeleted(t *testing.T) {
	config := configure(t, "")
	p := launch(t, config)
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	ready := func() int {
		t.Helper()
		resp, err := http.Get("http://" + p.addr["listen.admin"] + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		return resp.StatusCode
	}
	if status := ready(); status != 200 {
		t.Fatalf("readyz %d before", status)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(config), "keys.db")); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ side, token, path, body string }{
		{"operators", aliceToken, "/v1/accounts/a/keys", `{"label":"x"}`},
		{"sidecars", sidecarToken, "/v1/changes", `{"sidecar":"s","poll":1,"after":0,"leave":true}`},
	} {
		if status, v := p.ask(r.side, r.token, "POST", r.path, r.body); status != 503 {
			t.Errorf("%s: %d %v", r.path, status, v)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ready() != 503; <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still ready")
		}
	}
	if n := strings.Count(p.logged(), "store: database file deleted"); n != 1 {
		t.Errorf("%d lines in the log, want one", n)
	}
}

func TestNewEpoch(t *testing.T) {
	config := configure(t, "")
	p := launch(t, config)
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	_, first := p.poll(-1, "", 0)
	epoch, head := first["epoch"].(string), int64(first["revision"].(float64))
	p.stop(syscall.SIGTERM)

	began := time.Now()
	code, stdout, stderr := run(t, "-config", config, "-new-epoch")
	if code != 0 || !strings.HasPrefix(stdout, "new epoch ") || strings.Contains(stdout, epoch) {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	p = launch(t, config)
	if status, v := p.poll(head, epoch, 0); status != 410 || v["epoch"] == epoch {
		t.Errorf("poll of the old epoch: %d %v", status, v)
	}
	change := p.operator("POST", "/v1/accounts/a/terminate", "")["change"].(map[string]any)
	by, err := time.Parse(time.RFC3339, fmt.Sprint(change["effective_by"]))
	if err != nil || change["effective"] != false {
		t.Fatalf("change %v: %v", change, err)
	}
	// lease + longest_max_stale after the new epoch
	if least := began.Add(time.Hour + 15*time.Second); by.Before(least) || by.After(least.Add(time.Minute)) {
		t.Errorf("effective by %s, want %s", by, least)
	}
}

func TestReload(t *testing.T) {
	config := configure(t, "")
	p := launch(t, config)
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	if status, _ := p.ask("operators", aliceToken, "POST", "/v1/accounts/a/keys", `{"label":"x","scopes":["read"]}`); status != 400 {
		t.Errorf("a scope outside the catalogue: %d", status)
	}
	raw, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	more := "scopes: {read: {granted_by: owner}}\n"
	if err := os.WriteFile(config, append(raw, more...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		status, v := p.ask("operators", aliceToken, "POST", "/v1/accounts/a/keys", `{"label":"x","scopes":["read"]}`)
		if status == 201 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the reload had no effect: %d %v\n%s", status, v, p.logged())
		}
	}
}

func TestStartThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		more  string
		code  int
		names string
	}{
		"a password":     {"store: postgres://a:b@127.0.0.1:1/keys\n", 2, "store_password_file"},
		"no folder":      {"store: sqlite:///nowhere/at/all/keys.db\n", 1, "/nowhere/at/all"},
		"unknown field":  {"leese: 15s\n", 2, "lease"},
		"no such token":  {"operators: [{name: alice, token_file: nobody.token}]\n", 2, "nobody.token"},
		"not a database": {"store: sqlite://DIR/alice.token\n", 1, "alice.token"},
	} {
		t.Run(name, func(t *testing.T) {
			config := configure(t, "")
			raw, err := os.ReadFile(config)
			if err != nil {
				t.Fatal(err)
			}
			c.more = strings.ReplaceAll(c.more, "DIR", filepath.Dir(config))
			// The case's line takes the place of the same field's.
			field, _, _ := strings.Cut(c.more, ":")
			var kept []string
			for _, line := range strings.Split(string(raw), "\n") {
				if !strings.HasPrefix(line, field+":") {
					kept = append(kept, line)
				}
			}
			if err := os.WriteFile(config, []byte(strings.Join(kept, "\n")+c.more), 0o600); err != nil {
				t.Fatal(err)
			}
			code, _, stderr := run(t, "-config", config)
			if code != c.code || !strings.Contains(stderr, c.names) {
				t.Errorf("exit %d: %s", code, stderr)
			}
		})
	}
}
