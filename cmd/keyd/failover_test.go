package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
)

// The primary dies and its standby is promoted: keyd goes on with it by itself, nothing that it was
// told of is lost, and sidecars are sent to a new epoch, in which no change is effective before
// those that nobody knows of have ended.
func TestFailover(t *testing.T) {
	primary, err := pgtest.Start(t.Context(), "synchronous_standby_names=*", "synchronous_commit=local")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = primary.Remove() })
	if err := primary.Exec(t.Context(), "postgres", "CREATE DATABASE keys"); err != nil {
		t.Fatal(err)
	}
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Remove() })
	if err := primary.Exec(t.Context(), "postgres", "ALTER DATABASE keys SET synchronous_commit = on"); err != nil {
		t.Fatal(err)
	}
	config := onPostgres(t, primary, "keys")
	replaceIn(t, config, primary.LoopbackURL("keys"),
		fmt.Sprintf("postgres://postgres@/keys?host=127.0.0.1,127.0.0.1&port=%d,%d&sslmode=disable", standby.Port, primary.Port))
	s := seed(t, config)

	before := s.truthOfA()
	died := time.Now()
	if err := primary.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, v := s.send(s.changes()[1]); status != 503 {
		t.Errorf("without a primary: %d %v", status, v)
	}
	if status, v := s.ask("sidecars", sidecarToken, "POST", "/v1/resolve", `{"credentials":["`+s.digest+`"]}`); status != 503 {
		t.Errorf("the standby, which may lag, was asked: %d %v", status, v)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.until(s.changes()[11], 200)
	if after := s.truthOfA(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if status, v := s.poll(s.head, s.epoch, 0); status != 410 || v["epoch"] == s.epoch {
		t.Errorf("a sidecar of before polls: %d %v", status, v)
	}
	change := s.operator("POST", "/v1/keys/"+s.key+"/revoke", "")["change"].(map[string]any)
	by, err := time.Parse(time.RFC3339, fmt.Sprint(change["effective_by"]))
	if least := died.Add(fleetLease + time.Hour); err != nil || change["effective"] != false || by.Before(least) {
		t.Errorf("%v, though nobody knows who else is there until %s: %v", change, least, err)
	}
}

// longest_max_stale is raised by a reload, and then the server fails over: the wait of the new epoch
// is by the new value.
func TestFailoverAfterAReload(t *testing.T) {
	server, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Remove() })
	database, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	config := onPostgres(t, server, database)
	p := launch(t, config)
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	replaceIn(t, config, "longest_max_stale: 1h", "longest_max_stale: 6h")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	reloaded := func() bool { // by the range that a refusal names
		_, v := p.ask("sidecars", sidecarToken, "POST", "/v1/changes", `{"sidecar":"x","poll":1,"after":0,"max_stale_ms":86400000}`)
		return strings.Contains(fmt.Sprint(v["message"]), fmt.Sprint((6 * time.Hour).Milliseconds()))
	}
	for deadline := time.Now().Add(10 * time.Second); !reloaded(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the reload had no effect\n%s", p.logged())
		}
	}
	// As after a failover, the server's timeline is not the one on record.
	if err := server.Exec(t.Context(), database, "UPDATE head SET timeline = timeline + 1"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	change := p.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`)["change"].(map[string]any)
	by, err := time.Parse(time.RFC3339, fmt.Sprint(change["effective_by"]))
	if err != nil || by.Before(began.Add(6*time.Hour)) {
		t.Errorf("%v after %v: %v", change, began, err)
	}
}
