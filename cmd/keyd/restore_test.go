package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// TestOperationsManualOnPostgres does what the manual says of PostgreSQL: a key is revoked
// between the copy and the restore. What a timeline does is tested with the store.
func TestOperationsManualOnPostgres(t *testing.T) {
	server, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Remove() })
	if err := server.Exec(context.Background(), "postgres", "CREATE DATABASE keys"); err != nil {
		t.Fatal(err)
	}
	config := onPostgres(t, server, "keys")
	m := readManual(t)
	m.set("config", config)
	m.set("backups", t.TempDir())
	m.set("PGPASSWORD", pgtest.Password)
	m.set("database", server.LoopbackURL("keys"))
	m.set("server", server.LoopbackURL("postgres"))
	self := command(t)
	m.prelude = fmt.Sprintf("keyd() { KEYD_TEST_MAIN=yes %q \"$@\"; }\n", self.Path)
	// Debian puts the programs of the newest server there; where they are not in PATH.
	if bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(bins) > 0 {
		m.prelude += "PATH=$PATH:" + strings.Join(bins, ":") + "\n"
	}

	p := launch(t, config)
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	minted := p.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`)
	id := minted["key"].(map[string]any)["id"].(string)
	digest := credential.NewSecret(minted["plaintext"].(string)).Digest().Hex()
	state := func() any {
		_, v := p.ask("sidecars", sidecarToken, "POST", "/v1/resolve", `{"credentials":["`+digest+`"]}`)
		return v["credentials"].([]any)[0].(map[string]any)["state"]
	}
	m.run("PostgreSQL")
	p.operator("POST", "/v1/keys/"+id+"/revoke", "")
	_, known := p.poll(-1, "", 0)
	if got := state(); got != "revoked" {
		t.Fatalf("revoked, and it is %v", got)
	}
	p.stop(syscall.SIGTERM)

	began := time.Now()
	m.run("PostgreSQL")
	p = launch(t, config)
	if status, now := p.poll(int64(known["revision"].(float64)), known["epoch"].(string), 0); status != 410 || now["epoch"] == known["epoch"] {
		t.Errorf("a sidecar of before polls: %d %v", status, now)
	}
	if got := state(); got != "active" {
		t.Errorf("in the copy it is active, and it is %v", got)
	}
	change := p.operator("POST", "/v1/keys/"+id+"/revoke", "")["change"].(map[string]any)
	by, err := time.Parse(time.RFC3339, fmt.Sprint(change["effective_by"]))
	if least := began.Add(fleetLease + time.Hour); err != nil || change["effective"] != false || by.Before(least) {
		t.Errorf("%v, though nobody knows who else is there until %s: %v", change, least, err)
	}
	if len(m.blocks["PostgreSQL"]) > 0 {
		t.Error("the chapter has more commands")
	}
}
