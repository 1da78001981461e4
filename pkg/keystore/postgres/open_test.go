package postgres_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

func execute(t *testing.T, url string, statements ...string) {
	t.Helper()
	name := url[strings.LastIndex(url, "/keys_")+1:]
	name, _, _ = strings.Cut(name, "?")
	for _, q := range statements {
		if err := server.Exec(t.Context(), name, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	made := func(t *testing.T, url string) { mustClose(t, open(t, url, postgres.Options{})) }
	for _, tt := range []struct {
		name string
		set  func(t *testing.T, url string) string
		want string
	}{
		{"no such database", func(_ *testing.T, url string) string { return strings.Replace(url, "/keys_", "/no_", 1) }, `database no_.* does not exist`},
		{"no server", func(*testing.T, string) string { return "postgres://127.0.0.1:1/keys" }, `database keys at 127\.0\.0\.1: .*refused`},
		{"invalid URL", func(*testing.T, string) string { return "postgres://user:canary-secret@[::1/keys" }, `^database: `},
		{"tables of another program", func(t *testing.T, url string) string {
			execute(t, url, "CREATE TABLE keys (id int)")
			return url
		}, `migration 0001_first\.sql: .*"keys" already exists .*: database of another program\?$`},
		{"newer schema", func(t *testing.T, url string) string {
			made(t, url)
			execute(t, url, "INSERT INTO phantom_schema VALUES (99)")
			return url
		}, `schema version 99 is invalid: must be at most \d+: run a newer program`},
		{"read-only", func(t *testing.T, url string) string {
			execute(t, url, "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END$$")
			return url
		}, `takes no writes: a standby, or read-only`},
		{"no password", func(_ *testing.T, url string) string {
			name, _, _ := strings.Cut(url[strings.LastIndex(url, "/")+1:], "?")
			return server.LoopbackURL(name)
		}, `password authentication failed|empty password|no password`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := postgres.Open(t.Context(), tt.set(t, database(t, server)), postgres.Options{})
			if err == nil {
				mustClose(t, s)
				t.Fatal("opened")
			}
			if errors.Is(err, keystore.ErrUnreachable) != (tt.name == "no server" || tt.name == "read-only") {
				t.Errorf("unreachable: %v", err)
			}
			if msg := err.Error(); !regexp.MustCompile(tt.want).MatchString(msg) || strings.Contains(msg, "canary") {
				t.Fatalf("got %q, want %q", msg, tt.want)
			}
		})
	}
}

// The password is read for each connection, so that it can be changed.
func TestPasswordIsReadAgain(t *testing.T) {
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	execute(t, server.URL(name), "CREATE ROLE keyd LOGIN PASSWORD 'canary-one'", "GRANT ALL ON SCHEMA public TO keyd")
	t.Cleanup(func() { _ = server.Exec(context.Background(), name, "DROP OWNED BY keyd; DROP ROLE keyd") })
	var current atomic.Value
	current.Store("canary-one")
	url := strings.Replace(server.LoopbackURL(name), "postgres@", "keyd@", 1)
	s := open(t, url, postgres.Options{Password: func() credential.Secret { return credential.NewSecret(current.Load().(string)) }})
	defer mustClose(t, s)
	execute(t, server.URL(name), "ALTER ROLE keyd PASSWORD 'canary-two'",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keyd'")
	err = nil
	for range 20 { // each connection of before fails once
		if err = s.Ping(t.Context()); err != nil && strings.Contains(err.Error(), "password authentication failed") {
			break
		}
	}
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Fatalf("with the old password: %v", err)
	}
	current.Store("canary-two")
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mint(ctx context.Context, s *postgres.Store, id string) (keystore.Key, error) {
	return s.CreateKey(ctx, "operator:test", keystore.NewKey{ID: id, Account: "acc", Digest: credential.NewSecret(id).Digest()})
}

func withAccount(t *testing.T, url string) *postgres.Store {
	t.Helper()
	s := open(t, url, postgres.Options{})
	if _, err := s.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	return s
}

// woken reports whether the channel is closed within that time.
func woken(t *testing.T, changed <-chan struct{}, limit time.Duration) bool {
	t.Helper()
	select {
	case <-changed:
		return true
	case <-time.After(limit):
		return false
	}
}

// Two stores on one database are two replicas: a change of one wakes the other.
func TestReplicasWakeEachOther(t *testing.T) {
	url := database(t, server)
	a, b := withAccount(t, url), open(t, url, postgres.Options{})
	defer mustClose(t, a)
	defer mustClose(t, b)
	for until := time.Now().Add(10 * time.Second); ; { // until b listens
		changed := b.Changed()
		if _, err := mint(t.Context(), a, credential.RandomBase62(8)); err != nil {
			t.Fatal(err)
		}
		if woken(t, changed, time.Second) {
			break
		}
		if time.Now().After(until) {
			t.Fatal("no notification of the other replica's change")
		}
	}
	head, err := a.NewEpoch(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := b.Head(t.Context())
	if seen.Now = head.Now; err != nil || seen != head {
		t.Fatalf("%+v, want %+v: %v", seen, head, err)
	}
	_, next, err := a.Keys(t.Context(), "acc", keystore.Page{Limit: 1})
	if err == nil && next != "" {
		_, _, err = b.Keys(t.Context(), "acc", keystore.Page{Limit: 1, After: next})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A replica that is frozen in the middle of a mutation delays the others for a few seconds only.
func TestFrozenReplicaDelaysOthersBriefly(t *testing.T) {
	t.Parallel()
	url := database(t, server)
	s := withAccount(t, url)
	defer mustClose(t, s)
	frozen := open(t, url, postgres.Options{})
	defer mustClose(t, frozen)
	held, release, result := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() { result <- frozen.Hold(context.Background(), held, release) }()
	<-held
	began := time.Now()
	if _, err := mint(t.Context(), s, "key_1"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	close(release)
	if err := <-result; err == nil {
		t.Error("the mutation of the frozen replica was committed")
	}
}

// A call returns when its context ends.
func TestCallEndsWithItsContext(t *testing.T) {
	url := database(t, server)
	s := withAccount(t, url)
	defer mustClose(t, s)
	held, release, result := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() { result <- s.Hold(context.Background(), held, release) }()
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := mint(ctx, s, "key_1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, _, err := s.RecordPoll(ctx, keystore.Poll{Sidecar: "s", Number: 1, Revision: -1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	close(release)
	if err := <-result; err != nil {
		t.Error(err)
	}
	if _, sidecars, _, err := s.Sidecars(t.Context(), keystore.Page{Limit: 10}); err != nil || len(sidecars) > 0 {
		t.Errorf("%v, %v", sidecars, err)
	}
	if _, err := s.Key(t.Context(), "key_1"); !errors.Is(err, keystore.ErrNotFound) {
		t.Error(err)
	}
}
