package main

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
)

var (
	started atomic.Pointer[pgtest.Server]
	// sharedPostgres starts one server for the tests that do not change it. Each uses its own database.
	sharedPostgres = sync.OnceValues(func() (*pgtest.Server, error) {
		server, err := pgtest.Start(context.Background())
		started.Store(server)
		return server, err
	})
)

// onEachEngine runs a test with a new store of each engine, and with more at the end of the configuration.
func onEachEngine(t *testing.T, more string, test func(t *testing.T, config string)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, configure(t, more))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		config, _ := onDatabase(t, sharedServer(t))
		replaceIn(t, config, "keys_per_account: 100\n", "keys_per_account: 100\n"+more)
		test(t, config)
	})
}

// startPostgres starts a server for one test.
func startPostgres(t *testing.T, settings ...string) *pgtest.Server {
	t.Helper()
	server, err := pgtest.Start(t.Context(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Remove() })
	return server
}

func sharedServer(t *testing.T) *pgtest.Server {
	t.Helper()
	server, err := sharedPostgres()
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// onDatabase returns a configuration for a new database of the server, and the name of the database.
func onDatabase(t *testing.T, server *pgtest.Server) (config, database string) {
	t.Helper()
	database, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return onPostgres(t, server, database), database
}

// onPostgres returns a configuration for the database.
func onPostgres(t *testing.T, server *pgtest.Server, database string) string {
	t.Helper()
	config := configure(t, "store_password_file: database.password\n")
	replaceIn(t, config, "sqlite://"+filepath.Dir(config)+"/keys.db", server.LoopbackURL(database), "lease: 15s", "lease: "+postgresLease.String())
	write(t, filepath.Join(filepath.Dir(config), "database.password"), pgtest.Password+"\n")
	return config
}

// postgresLease is short, since the tests of replicas wait for leases to expire.
const postgresLease = 3 * time.Second
