package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// lastPoll is the number of the last poll of all tests.
var lastPoll atomic.Int64

func recordPoll(ctx context.Context, s *Store, p keystore.Poll) error {
	p.Limit, p.Number = 1000, lastPoll.Add(1)
	_, _, err := s.RecordPoll(ctx, p)
	return err
}

func mint(ctx context.Context, s *Store, id string) error {
	_, err := s.CreateKey(ctx, "operator:test", keystore.NewKey{ID: id, Account: "acc", Digest: credential.NewSecret(id).Digest()})
	return err
}

func withAccount(t *testing.T, opts Options) *Store {
	t.Helper()
	s := mustOpen(t, filepath.Join(t.TempDir(), "keys.db"), opts)
	if _, err := s.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	return s
}

func typed(err error) bool {
	var conflict *keystore.Conflict
	return errors.Is(err, keystore.ErrNotFound) || errors.Is(err, keystore.ErrGone) || errors.Is(err, keystore.ErrCursor) ||
		errors.As(err, &conflict)
}

// whole checks that each revision has a log row and each change an event.
func whole(t *testing.T, s *Store) {
	t.Helper()
	var revision, rows, events, keys int
	err := s.readers.QueryRowContext(t.Context(), `SELECT revision, (SELECT count(*) FROM log), (SELECT count(*) FROM events),
		(SELECT count(*) FROM keys) FROM head`).Scan(&revision, &rows, &events, &keys)
	if err != nil || rows != revision || events != revision || keys+1 != revision {
		t.Fatalf("revision %d, %d log rows, %d events, %d keys, %v", revision, rows, events, keys, err)
	}
}

// A failed write is an untyped error, changes nothing, and succeeds when repeated later.
func TestFailedWriteChangesNothing(t *testing.T) {
	for _, tt := range []struct{ name, fail, repair string }{
		{"full disk", "PRAGMA max_page_count = 1", "PRAGMA max_page_count = 100000"}, // no further page
		{"read-only", "PRAGMA query_only = on", "PRAGMA query_only = off"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := withAccount(t, Options{})
			if _, err := s.writer.ExecContext(t.Context(), tt.fail); err != nil {
				t.Fatal(err)
			}
			var err error
			n := 0
			for ; err == nil && n < 1000; n++ {
				err = mint(t.Context(), s, fmt.Sprint("key_", n))
			}
			if err == nil || typed(err) {
				t.Fatalf("after %d keys: %v", n, err)
			}
			whole(t, s)
			if _, err := s.Key(t.Context(), fmt.Sprint("key_", n-1)); !errors.Is(err, keystore.ErrNotFound) {
				t.Fatalf("the key that failed: %v", err)
			}
			if _, err := s.writer.ExecContext(t.Context(), tt.repair); err != nil {
				t.Fatal(err)
			}
			if err := mint(t.Context(), s, fmt.Sprint("key_", n-1)); err != nil {
				t.Fatal(err)
			}
			whole(t, s)
		})
	}
}

// While another process holds the write lock, reads work, writes wait no longer than their context or BusyTimeout, and
// nothing is written in part.
func TestLockedByAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := mustOpen(t, path, Options{BusyTimeout: time.Second})
	if _, err := s.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	other := otherProgram(t, path, "BEGIN IMMEDIATE")
	if _, err := s.Account(t.Context(), "acc"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := mint(ctx, s, "key_1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if waited := time.Since(start); waited > 900*time.Millisecond {
		t.Errorf("a call with 20ms took %v", waited)
	}
	if err := mint(t.Context(), s, "key_2"); err == nil || typed(err) {
		t.Fatalf("beyond BusyTimeout: %v", err)
	}
	whole(t, s)
	if _, err := other.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := mint(t.Context(), s, "key_3"); err != nil {
		t.Fatal(err)
	}
	whole(t, s)
}

// whileWriting runs do while the writer is in a transaction.
func whileWriting(t *testing.T, s *Store, do func()) {
	t.Helper()
	release, held := make(chan struct{}), make(chan error)
	go func() {
		_, err := sqlstore.Mutate(t.Context(), s, "hold", "", func(*sqlstore.Tx) (struct{}, error) {
			<-release
			return struct{}{}, nil
		})
		held <- err
	}()
	synctest.Wait()
	do()
	close(release)
	if err := <-held; err != nil {
		t.Error(err)
	}
}

func TestPollsShareACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var readings atomic.Int64 // of the clock: a constant number for each transaction
		s := withAccount(t, Options{Now: func() time.Time { readings.Add(1); return time.Now() }})
		head, err := s.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		readings.Store(0)
		if err := recordPoll(t.Context(), s, keystore.Poll{Sidecar: "alone", Epoch: head.Epoch, Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
		one := readings.Load()
		const sidecars = 300
		var g errgroup.Group
		whileWriting(t, s, func() {
			for i := range sidecars {
				g.Go(func() error {
					return recordPoll(t.Context(), s, keystore.Poll{Sidecar: fmt.Sprint(i), Epoch: head.Epoch, Lease: time.Minute})
				})
			}
			synctest.Wait()
			readings.Store(0)
		})
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := readings.Load(); n != one {
			t.Errorf("%d polls that waited together read the clock %d times, want %d: one transaction", sidecars, n, one)
		}
	})
}

// A call returns when its context ends. If its transaction has not begun, it never does.
func TestCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := withAccount(t, Options{})
		head, err := s.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		whileWriting(t, s, func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			var g errgroup.Group
			g.Go(func() error { return mint(ctx, s, "key_1") })
			g.Go(func() error {
				return recordPoll(ctx, s, keystore.Poll{Sidecar: "s", Epoch: head.Epoch, Lease: time.Minute})
			})
			if err := g.Wait(); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if waited := time.Since(start); waited != time.Second {
				t.Errorf("it took %v", waited)
			}
		})
		whole(t, s)
		if _, sidecars, _, err := s.Sidecars(t.Context(), keystore.Page{Limit: 10}); err != nil || len(sidecars) > 0 {
			t.Errorf("%v, %v", sidecars, err)
		}
	})
}

func TestRenewalClosesNoChannel(t *testing.T) {
	s := withAccount(t, Options{})
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	poll := func() {
		t.Helper()
		if err := recordPoll(t.Context(), s, keystore.Poll{Sidecar: "s", Epoch: head.Epoch, Revision: 1, Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	poll()
	changed := s.Changed()
	poll()
	select {
	case <-changed:
		t.Fatal("a renewal of a lease closed the channel")
	default:
	}
}

// A lease on record, in microseconds, does not end before the exact one that the sidecar was given.
func TestLeasesOnRecordAreNotShorter(t *testing.T) {
	for _, fraction := range []time.Duration{0, 1, 999} {
		for _, lease := range []time.Duration{time.Minute, time.Minute + 1, time.Minute + 999} {
			now := time.Unix(1_800_000_000, 0).Add(fraction)
			s := withAccount(t, Options{Now: func() time.Time { return now }})
			head, err := s.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			err = recordPoll(t.Context(), s, keystore.Poll{Sidecar: "s", Epoch: head.Epoch, Lease: lease, MaxStale: lease})
			if err != nil {
				t.Fatal(err)
			}
			_, list, _, err := s.Sidecars(t.Context(), keystore.Page{Limit: 10})
			if err != nil || len(list) != 1 {
				t.Fatal(list, err)
			}
			if list[0].LeaseEndsAt.Before(now.Add(lease)) || list[0].StaleEndsAt.Before(now.Add(2*lease)) {
				t.Errorf("at %v with %v: %+v", now, lease, list[0])
			}
			if head, err = s.NewEpoch(t.Context(), lease); err != nil || head.NotBefore.Before(now.Add(lease)) {
				t.Errorf("a new epoch at %v with %v: %+v, %v", now, lease, head, err)
			}
		}
	}
}

// Two processes have one file open when a new keyd takes over, and during -new-epoch.
func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	a, b := mustOpen(t, path, Options{}), mustOpen(t, path, Options{})
	if _, err := a.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for i, s := range []*Store{a, b, a, b} {
		g.Go(func() error {
			for n := range 20 {
				if err := mint(t.Context(), s, fmt.Sprintf("key_%d_%d", i, n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	whole(t, b)
	head, err := b.NewEpoch(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := a.Head(t.Context())
	if seen.Now = head.Now; err != nil || seen != head {
		t.Fatalf("%+v, want %+v: %v", seen, head, err)
	}
	// A cursor of one serves the other.
	_, next, err := a.Keys(t.Context(), "acc", keystore.Page{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Keys(t.Context(), "acc", keystore.Page{Limit: 1, After: next}); err != nil {
		t.Fatal(err)
	}
}
