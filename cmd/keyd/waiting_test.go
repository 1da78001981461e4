package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
)

// launchWaiting starts keyd and waits for its admin listener.
func launchWaiting(t *testing.T, config string) *process {
	t.Helper()
	return launchUntil(t, config, func(p *testbed.Process, ctx context.Context) error { return p.AwaitListening(ctx, "listen.admin") })
}

// shows waits until a page of the admin listener contains the text.
func (p *process) shows(path, want string) {
	p.t.Helper()
	eventually(p.t, path, func() error {
		got, err := testbed.Get(p.t.Context(), p.Admin()+path)
		if err == nil && !strings.Contains(string(got), want) {
			err = fmt.Errorf("%s, want %q", got, want)
		}
		return err
	})
}

// checkWaits checks that keyd waits for its database until it is repaired.
func checkWaits(t *testing.T, config string, repair func()) {
	t.Helper()
	p := launchWaiting(t, config)
	p.shows("/readyz", "starting: waiting for the database, which cannot be reached\n")
	if testbed.Probe(t.Context(), p.Admin()+"/readyz") == nil {
		t.Error("ready without a database")
	}
	p.shows("/livez", "alive")
	p.shows("/metrics", "\nphantom_keyd_store_waiting 1\n")
	replaceIn(t, config, "admin: tcp://127.0.0.1:0", "admin: tcp://"+p.Addresses["listen.admin"])
	if code, _, stderr := run(t, "-config", config, "-healthcheck"); code != 1 || !strings.Contains(stderr, "waiting for the database") {
		t.Errorf("-healthcheck: exit %d, %s", code, stderr)
	}
	if code, _, stderr := run(t, "-config", config, "-new-epoch"); code != 1 || !strings.Contains(stderr, "cannot be reached") {
		t.Errorf("-new-epoch: exit %d, %s", code, stderr)
	}
	repair()
	eventually(t, "ready", func() error { return testbed.Probe(t.Context(), p.Admin()+"/readyz") })
	p.shows("/metrics", "\nphantom_keyd_store_waiting 0\n")
	if code, _, stderr := run(t, "-config", config, "-healthcheck"); code != 0 {
		t.Errorf("-healthcheck: exit %d, %s", code, stderr)
	}
	p.stop(syscall.SIGTERM)
	if n := strings.Count(p.Output(), `"msg":"database unreachable: not ready until it can be reached"`); n != 1 {
		t.Errorf("%d warnings in\n%s", n, p.Output())
	}
}

func TestWaitsForPostgres(t *testing.T) {
	t.Parallel()
	server := startPostgres(t)
	config, _ := onDatabase(t, server)
	if err := server.Stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	checkWaits(t, config, func() {
		if err := server.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWaitsForLockedSQLite(t *testing.T) {
	t.Parallel()
	config := configure(t, "")
	path := filepath.Join(filepath.Dir(config), "keys.db")
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err == nil {
		err = store.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	for _, q := range []string{"PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "PRAGMA user_version = 1"} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	checkWaits(t, config, func() {
		if _, err := db.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		_ = db.Close()
	})
}

// A signal ends the wait.
func TestStopWhileWaiting(t *testing.T) {
	t.Parallel()
	config := configure(t, "drain: 4s\n")
	replaceIn(t, config, "store: sqlite://"+filepath.Dir(config)+"/keys.db", "store: postgres://127.0.0.1:1/keys")
	p := launchWaiting(t, config)
	p.shows("/readyz", "starting: waiting")
	began := time.Now()
	if p.stop(syscall.SIGTERM); time.Since(began) > 4*time.Second {
		t.Errorf("stopped after %v\n%s", time.Since(began), p.Output())
	}
}

func TestFailedLoginEndsStart(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	for message, breakConfig := range map[string]func(config, database string){
		"password authentication failed": func(config, _ string) {
			write(t, filepath.Join(filepath.Dir(config), "database.password"), "canary-wrong")
		},
		"does not exist": func(config, database string) { replaceIn(t, config, database, "no_such_database") },
	} {
		config, database := onDatabase(t, server)
		breakConfig(config, database)
		if code, _, stderr := run(t, "-config", config); code != 1 || !strings.Contains(stderr, message) || strings.Contains(stderr, "canary") {
			t.Errorf("%s: exit %d, %s", message, code, stderr)
		}
	}
}
