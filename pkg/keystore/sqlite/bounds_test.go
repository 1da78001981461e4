package sqlite

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// bound is the number of sidecars that a test's store takes.
const bound = 1000

// bounded is a store that takes few sidecars.
func bounded(t *testing.T) *Store {
	t.Helper()
	s := withAccount(t, Options{})
	if s.MaxSidecars != keystore.MaxSidecars || s.MaxGoneSidecars != keystore.MaxGoneSidecars {
		t.Errorf("the bounds are %d and %d", s.MaxSidecars, s.MaxGoneSidecars)
	}
	s.MaxSidecars, s.MaxGoneSidecars = bound, bound
	return s
}

// register puts n sidecars on record, whose stale time ends then.
func register(t *testing.T, s *Store, n int, gone bool, until time.Time) {
	t.Helper()
	_, err := sqlstore.Mutate(t.Context(), s, "register", "", func(t *sqlstore.Tx) (struct{}, error) {
		t.Exec(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO sidecars (name, poll, gone, revision, lease_ends_at, stale_ends_at, grants)
			SELECT 'registered_' || ?2 || i, 1, ?2, 1, ?3, ?3, '[]' FROM n`, n, gone, sqlstore.Stamp(until))
		t.Exec(`UPDATE head SET sidecars = (SELECT count(*) FROM sidecars WHERE NOT gone), gone_sidecars = (SELECT count(*) FROM sidecars WHERE gone)`)
		return struct{}{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// counted checks that the counts on record are right.
func counted(t *testing.T, s *Store, live, gone int) {
	t.Helper()
	var got [4]int
	err := s.readers.QueryRowContext(t.Context(), `SELECT sidecars, (SELECT count(*) FROM sidecars WHERE NOT gone),
		gone_sidecars, (SELECT count(*) FROM sidecars WHERE gone) FROM head`).Scan(&got[0], &got[1], &got[2], &got[3])
	if want := [4]int{live, live, gone, gone}; err != nil || got != want {
		t.Fatalf("on record and counted: %v, want %v: %v", got, want, err)
	}
}

// Beyond the bound new sidecars are refused. Those on record continue to poll, and those that have left or whose time is
// over make room.
func TestSidecarsOnRecordAreBounded(t *testing.T) { synctest.Test(t, sidecarsOnRecordAreBounded) }

func sidecarsOnRecordAreBounded(t *testing.T) {
	s := bounded(t)
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	poll := func(name string, want error) {
		t.Helper()
		p := keystore.Poll{Sidecar: name, Epoch: head.Epoch, Revision: 1, Lease: time.Minute}
		if err := recordPoll(t.Context(), s, p); !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", name, err, want)
		}
	}
	leave := func(name string) {
		t.Helper()
		if err := recordPoll(t.Context(), s, keystore.Poll{Sidecar: name, Leave: true, Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	poll("first", nil)
	register(t, s, bound-2, false, time.Now().Add(time.Second))
	poll("last", nil)
	counted(t, s, bound, 0)
	poll("new", keystore.ErrFull)
	poll("newer", keystore.ErrFull)
	poll("first", nil)
	leave("last")
	counted(t, s, bound-1, 1)
	poll("new", nil)
	poll("newer", keystore.ErrFull)
	if _, err := s.Forget(t.Context(), "operator:test", "new"); err != nil {
		t.Fatal(err)
	}
	poll("newer", nil)
	counted(t, s, bound, 2)

	<-time.After(2 * time.Second) // the time of those registered is over
	poll("newest", nil)
	counted(t, s, 3, 2)
	if err := s.Prune(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	counted(t, s, 3, 2)
	<-time.After(time.Minute)
	poll("last", nil) // has left, and its time is over
	counted(t, s, 4, 1)
	if err := s.Prune(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	counted(t, s, 4, 0)
}

// Beyond the bound of sidecars that have left, a leave deletes the record.
func TestGoneSidecarsAreBounded(t *testing.T) {
	s := bounded(t)
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	register(t, s, bound-1, true, time.Now().Add(time.Hour))
	for i := range 3 {
		p := keystore.Poll{Sidecar: fmt.Sprint("s", i), Epoch: head.Epoch, Revision: 1, Lease: time.Minute}
		if err := recordPoll(t.Context(), s, p); err != nil {
			t.Fatal(err)
		}
		for _, p.Sidecar = range []string{p.Sidecar, p.Sidecar, fmt.Sprint("unknown", i)} {
			p.Leave = true
			if err := recordPoll(t.Context(), s, p); err != nil {
				t.Fatal(err)
			}
		}
		counted(t, s, 0, bound)
	}
	if _, list, _, err := s.Sidecars(t.Context(), keystore.Page{Limit: 10}); err != nil || len(list) > 0 {
		t.Errorf("%d listed, %v", len(list), err)
	}
}
