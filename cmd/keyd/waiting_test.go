package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
)

// launchWaiting starts keyd, and returns as soon as its admin listener is there.
func launchWaiting(t *testing.T, config string) (p *process, admin string) {
	t.Helper()
	p = &process{t: t, cmd: command(t, "-config", config), addr: map[string]string{}, done: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		_ = p.cmd.Wait()
	})
	listens := make(chan string, 1)
	reader, writer := io.Pipe()
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			var line struct{ Msg, Field, Address string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" && line.Field == "listen.admin" {
				listens <- line.Address
			}
			_, _ = fmt.Fprintln(writer, lines.Text())
		}
		_ = writer.Close()
	}()
	go p.read(reader, make(chan bool, 2))
	select {
	case admin = <-listens:
	case <-p.done:
		t.Fatalf("keyd has ended:\n%s", p.logged())
	}
	return p, "http://" + admin
}

// shows waits until a path of the admin listener answers with the text.
func shows(t *testing.T, url, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(20 * time.Millisecond) {
		got := ""
		resp, err := http.Get(url)
		if err == nil {
			var raw []byte
			raw, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			got = fmt.Sprintf("%d %s", resp.StatusCode, raw)
		}
		if err == nil && strings.Contains(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v %s, want %q", url, err, got, want)
		}
	}
}

// waits expects keyd to wait for its database until mend, and then to run.
func waits(t *testing.T, config string, mend func()) {
	t.Helper()
	p, admin := launchWaiting(t, config)
	shows(t, admin+"/readyz", "503 starting: waiting for the database, which cannot be reached\n")
	shows(t, admin+"/livez", "200 alive")
	shows(t, admin+"/metrics", "\nkeyd_store_waiting 1\n")
	replaceIn(t, config, "admin: tcp://127.0.0.1:0", "admin: tcp://"+strings.TrimPrefix(admin, "http://"))
	if code, _, stderr := run(t, "-config", config, "-healthcheck"); code != 1 || !strings.Contains(stderr, "waiting for the database") {
		t.Errorf("the health check: exit %d, %s", code, stderr)
	}
	if code, _, stderr := run(t, "-config", config, "-new-epoch"); code != 1 || !strings.Contains(stderr, "cannot be reached") {
		t.Errorf("-new-epoch: exit %d, %s", code, stderr)
	}
	mend()
	shows(t, admin+"/readyz", "200 ready")
	shows(t, admin+"/metrics", "\nkeyd_store_waiting 0\n")
	if code, _, stderr := run(t, "-config", config, "-healthcheck"); code != 0 {
		t.Errorf("the health check: exit %d, %s", code, stderr)
	}
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit %d", code)
	}
	if warned := strings.Count(p.logged(), `"msg":"database unreachable: not ready until it can be reached"`); warned != 1 {
		t.Errorf("%d warnings in\n%s", warned, p.logged())
	}
}

func TestWaitsForPostgres(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Remove() }()
	database, err := server.Database(t.Context())
	if err == nil {
		err = server.Stop(syscall.SIGINT)
	}
	if err != nil {
		t.Fatal(err)
	}
	waits(t, onPostgres(t, server, database), func() {
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
	waits(t, config, func() {
		if _, err := db.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		_ = db.Close()
	})
}

// A signal ends the wait: a clean stop within the drain time.
func TestStopWhileWaiting(t *testing.T) {
	t.Parallel()
	config := configure(t, "drain: 4s\n")
	replaceIn(t, config, "store: sqlite://"+filepath.Dir(config)+"/keys.db", "store: postgres://127.0.0.1:1/keys")
	p, admin := launchWaiting(t, config)
	shows(t, admin+"/readyz", "503 starting: waiting")
	began := time.Now()
	if code := p.stop(syscall.SIGTERM); code != 0 || time.Since(began) > 4*time.Second {
		t.Errorf("exit %d after %v\n%s", code, time.Since(began), p.logged())
	}
}

// A database that answers and refuses ends the start.
func TestRefusedLoginIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	server, err := databases()
	if err != nil {
		t.Fatal(err)
	}
	database, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(config string){
		"password authentication failed": func(config string) {
			if err := os.WriteFile(filepath.Join(filepath.Dir(config), "database.password"), []byte("canary-wrong"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"does not exist": func(config string) { replaceIn(t, config, database, "no_such_database") },
	} {
		config := onPostgres(t, server, database)
		spoil(config)
		if code, _, stderr := run(t, "-config", config); code != 1 || !strings.Contains(stderr, name) || strings.Contains(stderr, "canary") {
			t.Errorf("%s: exit %d, %s", name, code, stderr)
		}
	}
}
