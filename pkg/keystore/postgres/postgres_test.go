package postgres_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/storetest"
)

// server is shared by tests that do not change its settings. Each has its own database.
var server *pgtest.Server

func openStore(ctx context.Context, url string) (keystore.Store, error) {
	s, err := postgres.Open(ctx, url, postgres.Options{})
	if err != nil {
		return nil, err
	}
	// After what the server may still do for the killed process.
	return s, s.Prune(ctx, 24*time.Hour)
}

func TestMain(m *testing.M) {
	storetest.CrashChild(openStore)
	// The tests wait for the server most of the time.
	err := flag.Set("test.parallel", "4")
	if err != nil {
		panic(err)
	}
	if server, err = pgtest.Start(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := server.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// database makes an empty database and returns its URL.
func database(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	name, err := s.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.URL(name)
}

func open(t *testing.T, url string, opts postgres.Options) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t *testing.T, s *postgres.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestCrash(t *testing.T) {
	t.Parallel()
	storetest.Crash(t, openStore, database(t, server))
}

// Replicas may start at the same time on an empty database.
func TestConcurrentOpen(t *testing.T) { storetest.ConcurrentOpen(t, openStore, database(t, server)) }

func TestStore(t *testing.T) { runSuite(t, "postgres") }

// runSuite runs the suite under that role.
func runSuite(t *testing.T, role string) {
	// SQLite's run of the model is longer. Here each step is many messages.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("8"); err != nil {
			t.Fatal(err)
		}
	}
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		url, err := server.SchemaURL(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		url = strings.Replace(url, "postgres://postgres@", "postgres://"+role+"@", 1)
		s := open(t, url, postgres.Options{})
		return storetest.Harness{
			Store: s,
			Reopen: func() keystore.Store {
				skew := s.Skew()
				mustClose(t, s)
				s = open(t, url, postgres.Options{})
				s.Advance(skew)
				return s
			},
			Advance: func(d time.Duration) { s.Advance(d) },
			Close:   func() { mustClose(t, s) },
		}
	})
}
