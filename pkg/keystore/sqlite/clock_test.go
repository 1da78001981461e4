package sqlite

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// clocks are a wall clock and a monotonic clock that the test moves separately or together.
type clocks struct {
	wall    time.Time
	elapsed time.Duration
}

func newClocks() *clocks { return &clocks{wall: time.Unix(1_800_000_000, 0).UTC()} }

func (c *clocks) options() Options {
	return Options{Now: func() time.Time { return c.wall }, Elapsed: func() time.Duration { return c.elapsed }}
}

func (c *clocks) pass(d time.Duration) {
	c.wall, c.elapsed = c.wall.Add(d), c.elapsed+d
}

// restart closes the store and opens it as the next process does, with another monotonic clock.
func (c *clocks) restart(t *testing.T, s *Store, path string) *Store {
	t.Helper()
	mustClose(t, s)
	c.elapsed += 1000 * time.Hour
	return c.open(t, path)
}

func (c *clocks) open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, c.options())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// progress returns the progress of change 2, and the one sidecar on record.
func progress(t *testing.T, s *Store) (keystore.Progress, keystore.Sidecar) {
	t.Helper()
	head, list, _, err := s.Sidecars(t.Context(), keystore.Page{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	p := keystore.ProgressOf(2, head, list)
	if _, found, err := s.Progress(t.Context(), 2); err != nil || !reflect.DeepEqual(found, p) {
		t.Fatalf("%+v, and of the list %+v: %v", found, p, err)
	}
	if len(list) == 0 {
		return p, keystore.Sidecar{}
	}
	return p, list[0]
}

// polled is a store with a sidecar that may answer for 90 s without change 2.
func polled(t *testing.T, c *clocks, path string) *Store {
	t.Helper()
	s := c.open(t, path)
	if _, err := s.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	pollOnce(t, s)
	if err := mint(t.Context(), s, "key_1"); err != nil {
		t.Fatal(err)
	}
	return s
}

// pollOnce records a poll that does not acknowledge change 2, and whose answer does not have it.
func pollOnce(t *testing.T, s *Store) {
	t.Helper()
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.writer.ExecContext(t.Context(), "UPDATE head SET revision = 1"); err != nil {
		t.Fatal(err)
	}
	err = recordPoll(t.Context(), s, keystore.Poll{Sidecar: "s", Epoch: head.Epoch, Revision: 1, Lease: 30 * time.Second, MaxStale: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.writer.ExecContext(t.Context(), "UPDATE head SET revision = ?", head.Revision); err != nil {
		t.Fatal(err)
	}
}

// effectiveAfter checks that the change becomes effective after exactly that time, and that EffectiveBy says so by the wall
// clock.
func effectiveAfter(t *testing.T, s *Store, c *clocks, d time.Duration) {
	t.Helper()
	p, sidecar := progress(t, s)
	if want := c.wall.Add(d); p.Effective || !p.EffectiveBy.Equal(want) || !sidecar.StaleEndsAt.Equal(want) || !sidecar.LeaseEndsAt.Equal(want.Add(-time.Minute)) {
		t.Fatalf("%+v and %+v, want it by %v", p, sidecar, want)
	}
	c.pass(d - time.Millisecond)
	if p, _ := progress(t, s); p.Effective {
		t.Fatal("effective before the sidecar's time was over")
	}
	c.pass(time.Millisecond)
	if p, _ := progress(t, s); !p.Effective {
		t.Fatalf("%+v after the sidecar's time", p)
	}
}

// A step of the wall clock neither ends nor prolongs a lease, in the process that sees the step and in the next one.
func TestStepOfTheWallClockMovesNoLease(t *testing.T) {
	for _, step := range []time.Duration{0, time.Hour, -time.Hour, 500 * time.Millisecond} {
		for variant := range 4 {
			renews, restarts := variant%2 == 1, variant/2 == 1
			c, path := newClocks(), filepath.Join(t.TempDir(), "keys.db")
			s := polled(t, c, path)
			c.pass(10 * time.Second)
			c.wall = c.wall.Add(step)
			k, err := s.SetKeyScope(t.Context(), "operator:test", "key_1", "x", true)
			if err != nil {
				t.Fatal(err)
			}
			events, _, err := s.Events(t.Context(), "", k.ID, keystore.Page{Limit: 1})
			if err != nil || !events[0].At.Equal(c.wall) {
				t.Errorf("the audit has %v, not the wall clock's %v: %v", events[0].At, c.wall, err)
			}
			left := 80 * time.Second
			if renews {
				pollOnce(t, s)
				left = 90 * time.Second
			}
			if restarts {
				s = c.restart(t, s, path)
			}
			effectiveAfter(t, s, c, left)
			mustClose(t, s)
		}
	}
}

// Several steps, some of them back, are corrected once.
func TestStepsAreCorrectedOnce(t *testing.T) {
	c, path := newClocks(), filepath.Join(t.TempDir(), "keys.db")
	s := polled(t, c, path)
	for i, step := range []time.Duration{time.Hour, time.Hour, -2 * time.Hour, -time.Minute, 0, 0} {
		c.wall = c.wall.Add(step)
		if _, err := s.SetKeyScope(t.Context(), "operator:test", "key_1", "x", i%2 == 0); err != nil {
			t.Fatal(err)
		}
		if i >= 3 {
			s = c.restart(t, s, path)
		}
	}
	effectiveAfter(t, s, c, 90*time.Second)
	mustClose(t, s)
}

// Close records a step after the last write.
func TestCloseRecordsTheStep(t *testing.T) {
	c, path := newClocks(), filepath.Join(t.TempDir(), "keys.db")
	s := polled(t, c, path)
	c.wall = c.wall.Add(time.Hour)
	s = c.restart(t, s, path)
	effectiveAfter(t, s, c, 90*time.Second)
	mustClose(t, s)
}

// The wait of a new epoch is counted by the monotonic clock too.
func TestStepDoesNotEndTheWaitOfNewEpoch(t *testing.T) {
	c, path := newClocks(), filepath.Join(t.TempDir(), "keys.db")
	s := mustOpen(t, path, c.options())
	if _, err := s.NewEpoch(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	c.wall = c.wall.Add(time.Hour)
	head, err := s.Head(t.Context())
	if err != nil || !head.NotBefore.Equal(c.wall.Add(time.Minute)) || !head.Now.Equal(c.wall) {
		t.Fatalf("%+v at %v: %v", head, c.wall, err)
	}
	if resolved, _, err := s.Resolve(t.Context(), nil); err != nil || resolved != head {
		t.Errorf("resolve returns %+v, want %+v: %v", resolved, head, err)
	}
	c.pass(59 * time.Second)
	if p, _ := progress(t, s); p.Effective {
		t.Error("effective before the wait was over")
	}
	c.pass(time.Second)
	if p, _ := progress(t, s); !p.Effective {
		t.Error("not effective after the wait")
	}
}

// The largest grant is written at most once a minute if it does not grow.
func TestLargestGrantIsNotWrittenByEveryPoll(t *testing.T) {
	c := newClocks()
	s := withAccount(t, c.options())
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	written := func() (at time.Time) {
		t.Helper()
		for i := range 5 {
			p := keystore.Poll{Sidecar: "s", Epoch: head.Epoch, Revision: 1, Lease: time.Minute, MaxStale: time.Duration(i/4) * time.Hour}
			if err := recordPoll(t.Context(), s, p); err != nil {
				t.Fatal(err)
			}
			c.pass(time.Second)
		}
		if err := s.readers.QueryRowContext(t.Context(), "SELECT largest_grant_at FROM head").Scan((*sqlstore.Stamp)(&at)); err != nil {
			t.Fatal(err)
		}
		return at
	}
	first := written()
	for range 10 {
		if at := written(); !at.Equal(first) {
			t.Fatalf("written at %v and again at %v", first, at)
		}
	}
	c.pass(time.Minute)
	if at := written(); at.Sub(first) < time.Minute {
		t.Errorf("written at %v and not again until %v", first, at)
	}
}

// A process that opens the file beside another one counts by the same lease clock, and the next one corrects a step once.
func TestSecondProcessSharesTheLeaseClock(t *testing.T) {
	for _, firstEndsFirst := range []bool{true, false} {
		c, path := newClocks(), filepath.Join(t.TempDir(), "keys.db")
		first := polled(t, c, path)
		c.wall = c.wall.Add(time.Hour)
		if _, err := first.SetKeyScope(t.Context(), "operator:test", "key_1", "x", true); err != nil {
			t.Fatal(err)
		}
		second := c.open(t, path)
		if a, b := first.clock.lease(), second.clock.lease(); !a.Equal(b) {
			t.Errorf("lease clocks of the processes: %v and %v", a, b)
		}
		c.wall = c.wall.Add(time.Minute) // another step, which both see
		stores := []*Store{second, first}
		if firstEndsFirst {
			stores = []*Store{first, second}
		}
		mustClose(t, stores[0])
		if _, err := stores[1].SetKeyScope(t.Context(), "operator:test", "key_1", "y", true); err != nil {
			t.Fatal(err)
		}
		s := c.restart(t, stores[1], path)
		effectiveAfter(t, s, c, 90*time.Second)
		mustClose(t, s)
	}
}

func TestOpenDuringAnotherStart(t *testing.T) {
	c, path := newClocks(), filepath.Join(t.TempDir(), "keys.db")
	mustClose(t, c.open(t, path))
	starting, alone, err := lock(t.Context(), path, 0)
	if err != nil || !alone {
		t.Fatalf("alone %v, %v", alone, err)
	}
	if _, err := Open(t.Context(), path, Options{BusyTimeout: time.Millisecond}); !errors.Is(err, keystore.ErrUnreachable) ||
		!strings.Contains(err.Error(), path+".lock: cannot be reached: another keyd is starting on it") {
		t.Errorf("got %v", err)
	}
	if err := starting.Close(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, c.open(t, path))
}
