package postgres_test

import (
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

// After a failover no change is effective before the largest lease and stale time that was given, or that a reload allows,
// even if the store was opened with less.
func TestFailoverWaitsForTheLargestGrant(t *testing.T) {
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := withAccount(t, server.URL(name))
	mustClose(t, s)
	s = open(t, server.URL(name), postgres.Options{Unknown: time.Minute})
	defer func() { mustClose(t, s) }()
	failOver := func(least, most time.Duration) {
		t.Helper()
		before, err := s.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Exec(t.Context(), name, "UPDATE head SET timeline = timeline + 1"); err != nil {
			t.Fatal(err)
		}
		head, err := s.Head(t.Context())
		if err != nil || head.Epoch == before.Epoch {
			t.Fatalf("%+v, %v", head, err)
		}
		if wait := head.NotBefore.Sub(before.Now); wait < least || wait > most {
			t.Errorf("no change is effective for %v, want %v to %v", wait, least, most)
		}
	}
	failOver(time.Minute, 2*time.Minute)
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	poll := keystore.Poll{Sidecar: "s", Number: 1, Epoch: head.Epoch, Revision: head.Revision, Limit: 1, Lease: time.Minute, MaxStale: 5 * time.Hour}
	if _, _, err := s.RecordPoll(t.Context(), poll); err != nil {
		t.Fatal(err)
	}
	failOver(5*time.Hour+time.Minute, 5*time.Hour+2*time.Minute)
	s.RaiseUnknown(6 * time.Hour)
	s.RaiseUnknown(time.Second)
	failOver(6*time.Hour, 6*time.Hour+time.Minute)
	mustClose(t, s)
	s = open(t, server.URL(name), postgres.Options{Unknown: time.Minute})
	failOver(5*time.Hour+time.Minute, 6*time.Hour+time.Minute)
}
