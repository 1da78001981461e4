package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The primary is killed and its standby is promoted: keyd uses it automatically, no change is lost, and sidecars get a new
// epoch, in which no change is effective before sidecars that may be unknown have expired.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := startPostgres(t, "synchronous_standby_names=*", "synchronous_commit=local")
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

	before := s.snapshot()
	killed := time.Now()
	if err := primary.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, v := s.send(s.changes()[1]); status != 503 {
		t.Errorf("without primary: %d %v", status, v)
	}
	if status, v := s.request("sidecars", sidecarToken, "POST", "/v1/resolve", `{"credentials":["`+s.digest+`"]}`); status != 503 {
		t.Errorf("resolved by the standby, which may lag: %d %v", status, v)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.until(s.changes()[11], 200)
	if after := s.snapshot(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if status, v := s.poll(s.head, s.epoch, 0); status != 410 || v["epoch"] == s.epoch {
		t.Errorf("poll of the old epoch: %d %v", status, v)
	}
	s.effectiveNotBefore(killed.Add(postgresLease+time.Hour), "/v1/keys/"+s.key+"/revoke")
}

// After a reload that raises longest_max_stale, a failover uses the new value.
func TestFailoverAfterReload(t *testing.T) {
	server := sharedServer(t)
	config, database := onDatabase(t, server)
	p := launch(t, config)
	p.account("a")
	id, _ := p.mint()
	replaceIn(t, config, "longest_max_stale: 1h", "longest_max_stale: 6h")
	p.reload(func() error { // a rejected poll shows the range
		_, v := p.request("sidecars", sidecarToken, "POST", "/v1/changes", `{"sidecar":"x","poll":1,"after":0,"max_stale_ms":86400000}`)
		if !strings.Contains(fmt.Sprint(v["message"]), fmt.Sprint((6 * time.Hour).Milliseconds())) {
			return fmt.Errorf("%v", v)
		}
		return nil
	})
	// The server's timeline differs from the one on record, as after a failover.
	if err := server.Exec(t.Context(), database, "UPDATE head SET timeline = timeline + 1"); err != nil {
		t.Fatal(err)
	}
	p.effectiveNotBefore(time.Now().Add(6*time.Hour), "/v1/keys/"+id+"/revoke")
}
