package main

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
)

var (
	started atomic.Pointer[pgtest.Server]
	// databases is one server for the tests that leave it as it is, each with a database of its own.
	databases = sync.OnceValues(func() (*pgtest.Server, error) {
		server, err := pgtest.Start(context.Background())
		started.Store(server)
		return server, err
	})
)

func removeServer() {
	if server := started.Load(); server != nil {
		_ = server.Remove()
	}
}

// onEachEngine runs a test over a fresh store of each engine, with more at the end of
// keyd's configuration.
func onEachEngine(t *testing.T, more string, test func(t *testing.T, config string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, configure(t, more)) })
	t.Run("postgres", func(t *testing.T) {
		server, err := databases()
		if err != nil {
			t.Fatal(err)
		}
		database, err := server.Database(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		config := onPostgres(t, server, database)
		raw, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config, append(raw, more...), 0o600); err != nil {
			t.Fatal(err)
		}
		test(t, config)
	})
}

// replaceIn changes a line of a configuration.
func replaceIn(t *testing.T, file, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(raw), from) {
		t.Fatalf("%s has no %q: %v", file, from, err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(raw), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}
