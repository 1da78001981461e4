package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

func TestMintAndRevoke(t *testing.T) {
	config := configure(t, "")
	p := launch(t, config)
	p.account("a")
	minted := p.operator("POST", "/v1/accounts/a/keys", `{"label":"laptop","scopes":["chat:companion"]}`)
	plaintext, id := minted.text("plaintext"), minted.object("key").text("id")
	digest := digestOf(plaintext)
	if got := p.state(digest); got != "active" {
		t.Errorf("state %q", got)
	}
	p.operator("POST", "/v1/keys/"+id+"/revoke?wait_ms=1000", "")
	if got := p.state(digest); got != "revoked" {
		t.Errorf("state %q", got)
	}
	if status, _ := p.request("operators", "canary-wrong-token", "GET", "/v1/accounts", ""); status != 401 {
		t.Errorf("wrong token: %d", status)
	}
	if status, v := ownersOf(p, config).do("GET", ownKeys, ""); status != 200 || v.list("keys")[0].(map[string]any)["id"] != id {
		t.Errorf("owner's list: %d %v", status, v)
	}
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		if err := testbed.Probe(t.Context(), p.Admin()+path); err != nil {
			t.Error(err)
		}
	}
	p.stop(syscall.SIGTERM)
	for _, secret := range []string{plaintext, digest, aliceToken, sidecarToken, "canary-wrong-token"} {
		if strings.Contains(p.Output(), secret) {
			t.Errorf("the log contains the secret that starts with %.8s", secret)
		}
	}
}

// A stop answers long polls early. The next process has the sidecars' leases and stale times and all changes.
func TestRestart(t *testing.T) {
	config := configure(t, "drain: 20s\n")
	p := launch(t, config)
	p.account("a")
	id, _ := p.mint()
	_, first := p.poll(-1, "", 0)
	epoch, head := first.text("epoch"), first.revision()

	answered := make(chan object, 1)
	began := time.Now()
	go func() {
		_, v := p.poll(head, epoch, 15*time.Second)
		answered <- v
	}()
	eventually(t, "lease of the long poll", func() error {
		list := object(p.operator("GET", "/v1/sidecars", "").list("sidecars")[0].(map[string]any))
		if ends := list.time(t, "lease_ends_at"); !ends.After(began.Add(15 * time.Second)) {
			return fmt.Errorf("ends at %v", ends)
		}
		return nil
	})
	before := p.operator("GET", "/v1/sidecars", "")
	p.stop(syscall.SIGTERM)
	v := <-answered
	if took := time.Since(began); took > 10*time.Second || v["lease_ms"] != 15000.0 || len(v.list("changes")) != 0 {
		t.Errorf("long poll: %v after %s", v, took)
	}

	p = launch(t, config)
	if after := p.operator("GET", "/v1/sidecars", ""); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("sidecars after the restart %v, before %v", after, before)
	}
	change := p.change("POST", "/v1/keys/"+id+"/revoke", "")
	if change["effective"] != false || fmt.Sprint(change["waiting_for"]) != "[s]" {
		t.Errorf("change %v", change)
	}
	if status, v := p.poll(head, epoch, 15*time.Second); status != 200 || len(v.list("changes")) != 1 {
		t.Errorf("poll: %d %v", status, v)
	}
	p.poll(head+1, epoch, 0)
	if got := p.change("GET", fmt.Sprintf("/v1/revisions/%d?wait_ms=5000", head+1), ""); got["effective"] != true {
		t.Errorf("change %v", got)
	}
	p.stop(syscall.SIGINT)
}

// A running keyd whose database file is deleted rejects changes and polls, becomes unready, and logs that once.
func TestDatabaseFileDeleted(t *testing.T) {
	config := configure(t, "")
	p := launch(t, config)
	p.account("a")
	if err := testbed.Probe(t.Context(), p.Admin()+"/readyz"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(config), "keys.db")); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ side, token, path, body string }{
		{"operators", aliceToken, "/v1/accounts/a/keys", `{"label":"x"}`},
		{"sidecars", sidecarToken, "/v1/changes", `{"sidecar":"s","poll":1,"after":0,"leave":true}`},
	} {
		if status, v := p.request(r.side, r.token, "POST", r.path, r.body); status != 503 {
			t.Errorf("%s: %d %v", r.path, status, v)
		}
	}
	eventually(t, "unready", func() error {
		if testbed.Probe(t.Context(), p.Admin()+"/readyz") == nil {
			return errors.New("ready")
		}
		return nil
	})
	if n := strings.Count(p.Output(), "store: database file deleted"); n != 1 {
		t.Errorf("%d log lines, want 1", n)
	}
}

func TestNewEpoch(t *testing.T) {
	config := configure(t, "")
	p := launch(t, config)
	p.account("a")
	_, first := p.poll(-1, "", 0)
	p.stop(syscall.SIGTERM)

	began := time.Now()
	code, stdout, stderr := run(t, "-config", config, "-new-epoch")
	if code != 0 || !strings.HasPrefix(stdout, "new epoch ") || strings.Contains(stdout, first.text("epoch")) {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	p = launch(t, config)
	if status, v := p.poll(first.revision(), first.text("epoch"), 0); status != 410 || v["epoch"] == first["epoch"] {
		t.Errorf("poll of the old epoch: %d %v", status, v)
	}
	// An unknown sidecar may have a lease and longest_max_stale left.
	earliest := began.Add(time.Hour + 15*time.Second)
	if by := p.effectiveNotBefore(earliest, "/v1/accounts/a/terminate"); by.After(earliest.Add(time.Minute)) {
		t.Errorf("effective by %s, want %s", by, earliest)
	}
}

// effectiveNotBefore posts a change that must not be effective before the time, and returns its effective_by.
func (p *process) effectiveNotBefore(earliest time.Time, path string) time.Time {
	p.t.Helper()
	change := p.change("POST", path, "")
	by := change.time(p.t, "effective_by")
	if change["effective"] != false || by.Before(earliest) {
		p.t.Errorf("%v, want effective_by %s or later", change, earliest)
	}
	return by
}

func TestReload(t *testing.T) {
	config := configure(t, "")
	p := launch(t, config)
	p.account("a")
	mint := func() (int, object) {
		return p.request("operators", aliceToken, "POST", "/v1/accounts/a/keys", `{"label":"x","scopes":["read"]}`)
	}
	if status, _ := mint(); status != 400 {
		t.Errorf("scope outside the catalogue: %d", status)
	}
	replaceIn(t, config, "lease: 15s\n", "lease: 15s\nscopes: {read: {granted_by: owner}}\n")
	p.reload(func() error {
		if status, v := mint(); status != 201 {
			return fmt.Errorf("mint: %d %v", status, v)
		}
		return nil
	})
}

func TestFailedStart(t *testing.T) {
	for name, c := range map[string]struct {
		field, value string
		code         int
		message      string
	}{
		"password in store":      {"store", "postgres://a:b@127.0.0.1:1/keys", 2, "store_password_file"},
		"missing directory":      {"store", "sqlite:///nowhere/keys.db", 1, "/nowhere"},
		"unknown field":          {"leese", "15s", 2, "lease"},
		"missing token file":     {"operators", "[{name: alice, token_file: nobody.token}]", 2, "nobody.token"},
		"file is not a database": {"store", "sqlite://DIR/alice.token", 1, "alice.token"},
	} {
		t.Run(name, func(t *testing.T) {
			config := configure(t, "")
			line := c.field + ": " + strings.ReplaceAll(c.value, "DIR", filepath.Dir(config)) + "\n"
			if c.field == "leese" {
				replaceIn(t, config, "lease: 15s\n", line)
			} else {
				replaceIn(t, config, "\n"+c.field+": ", "\n"+line+"# ")
			}
			code, _, stderr := run(t, "-config", config)
			if code != c.code || !strings.Contains(stderr, c.message) {
				t.Errorf("exit %d: %s", code, stderr)
			}
		})
	}
}
