package sqlite_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/storetest"
)

// clock stands still until the test moves it. Its first moment is finer than the store's precision.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Date(2026, 2, 28, 23, 59, 59, 123_456_789, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

func open(t *testing.T, path string, opts sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openStore(ctx context.Context, path string) (keystore.Store, error) {
	return sqlite.Open(ctx, path, sqlite.Options{})
}

func TestMain(m *testing.M) {
	storetest.CrashChild(openStore)
	goleak.VerifyTestMain(m)
}

func TestCrash(t *testing.T) {
	storetest.Crash(t, openStore, filepath.Join(t.TempDir(), "keys.db"))
}

// Processes that start at the same time open the file one after the other.
func TestConcurrentOpen(t *testing.T) {
	storetest.ConcurrentOpen(t, openStore, filepath.Join(t.TempDir(), "keys.db"))
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		path, clock := filepath.Join(t.TempDir(), "keys.db"), newClock()
		s := open(t, path, sqlite.Options{Now: clock.now})
		closeStore := func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		return storetest.Harness{
			Store: s,
			Reopen: func() keystore.Store {
				closeStore()
				s = open(t, path, sqlite.Options{Now: clock.now})
				return s
			},
			Advance: clock.advance,
			Close:   closeStore,
		}
	})
}
