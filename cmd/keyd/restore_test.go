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
)

// The chapter on PostgreSQL is tested with a key that is revoked between the backup and the restore.
func TestOperationsManualOnPostgres(t *testing.T) {
	t.Parallel()
	server := startPostgres(t)
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
	// On Debian the programs of PostgreSQL may not be in PATH.
	if bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(bins) > 0 {
		m.prelude += "PATH=$PATH:" + strings.Join(bins, ":") + "\n"
	}

	p := launch(t, config)
	p.account("a")
	id, digest := p.mint()
	m.run("PostgreSQL")
	p.operator("POST", "/v1/keys/"+id+"/revoke", "")
	_, known := p.poll(-1, "", 0)
	if got := p.state(digest); got != "revoked" {
		t.Fatalf("state %s", got)
	}
	p.stop(syscall.SIGTERM)

	began := time.Now()
	m.run("PostgreSQL")
	p = launch(t, config)
	if status, now := p.poll(known.revision(), known.text("epoch"), 0); status != 410 || now["epoch"] == known["epoch"] {
		t.Errorf("poll of the old epoch: %d %v", status, now)
	}
	if got := p.state(digest); got != "active" {
		t.Errorf("state after the restore %s", got)
	}
	p.effectiveNotBefore(began.Add(postgresLease+time.Hour), "/v1/keys/"+id+"/revoke")
	if len(m.blocks["PostgreSQL"]) > 0 {
		t.Error("the chapter has untested commands")
	}
}
