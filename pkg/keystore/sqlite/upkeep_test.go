package sqlite

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

func (s *Store) logRows(t *testing.T) (oldest, count int64) {
	t.Helper()
	if err := s.readers.QueryRowContext(t.Context(), "SELECT min(revision), count(*) FROM log").Scan(&oldest, &count); err != nil {
		t.Fatal(err)
	}
	return oldest, count
}

// fillLog adds log rows, alternately with the age even and odd.
func fillLog(t *testing.T, s *Store, rows int, even, odd time.Duration) {
	t.Helper()
	_, err := sqlstore.Mutate(t.Context(), s, "fill", "", func(t *sqlstore.Tx) (struct{}, error) {
		t.Exec(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO log SELECT revision + i, iif(i % 2, ?, ?), 'acc', NULL FROM n, head`,
			rows, sqlstore.Stamp(t.Now.Add(-odd)), sqlstore.Stamp(t.Now.Add(-even)))
		t.Exec("UPDATE head SET revision = revision + ?", rows)
		return struct{}{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPruneInSteps(t *testing.T) {
	s := withAccount(t, Options{})
	fillLog(t, s, 2*sqlstore.PruneStep+10, time.Hour, time.Hour)
	fillLog(t, s, 5, 0, 0)
	more, err := sqlstore.Mutate(t.Context(), s, "prune", "", func(t *sqlstore.Tx) (bool, error) { return t.Prune(-time.Minute) })
	if oldest, _ := s.logRows(t); err != nil || !more || oldest != sqlstore.PruneStep+1 {
		t.Fatalf("one step reached %d, more: %v, %v", oldest, more, err)
	}
	if err := s.Prune(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if oldest, count := s.logRows(t); oldest != 2*sqlstore.PruneStep+12 || count != 5 {
		t.Fatalf("%d rows from %d", count, oldest)
	}
}

// A clock that was set back leaves old rows after young ones. Deleting them would leave a gap that a follower cannot detect.
func TestPruneLeavesNoGap(t *testing.T) {
	s := withAccount(t, Options{}) // its row is young
	fillLog(t, s, 10, 0, time.Hour)
	if err := s.Prune(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if oldest, count := s.logRows(t); oldest != 1 || count != 11 {
		t.Fatalf("%d rows from %d", count, oldest)
	}
}

// Usage is pruned in steps of some keys. No key is left out between two steps, and each round begins with the first key.
func TestPruneUsageInSteps(t *testing.T) {
	s := withAccount(t, Options{})
	const keys = 1001
	fill := func() {
		t.Helper()
		_, err := sqlstore.Mutate(t.Context(), s, "fill", "", func(t *sqlstore.Tx) (struct{}, error) {
			t.Exec("INSERT INTO usage SELECT seq, ?, 1, 1 FROM keys", sqlstore.Stamp(t.Now.Add(-keystore.UsageRetention-time.Hour)))
			return struct{}{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := sqlstore.Mutate(t.Context(), s, "fill", "", func(t *sqlstore.Tx) (struct{}, error) {
		t.Exec(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO keys (id, account, digest, label, hint, scopes, created_at, created_by, revision)
			SELECT 'key_' || i, seq, randomblob(32), '', '', '', 0, '', 0 FROM n, accounts`, keys)
		return struct{}{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		fill()
		var left int
		if err := errors.Join(s.Prune(t.Context(), time.Hour), s.readers.QueryRowContext(t.Context(), "SELECT count(*) FROM usage").Scan(&left)); err != nil || left > 0 {
			t.Fatalf("%d of %d hours are left, %v", left, keys, err)
		}
	}
}

func TestUsageIsCountedByHour(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 59, 0, 0, time.UTC)
	s := withAccount(t, Options{Now: func() time.Time { return now }})
	for _, id := range []string{"key_1", "key_2"} {
		if err := mint(t.Context(), s, id); err != nil {
			t.Fatal(err)
		}
	}
	report := func(id string, allowed, denied int64) {
		t.Helper()
		used := keystore.Usage{Digest: credential.NewSecret(id).Digest(), LastUsedAt: now.Add(-90 * time.Minute), Allowed: allowed, Denied: denied}
		if err := s.RecordUsage(t.Context(), "s", []keystore.Usage{used, used}); err != nil {
			t.Fatal(err)
		}
	}
	report("key_1", 3, 1)
	report("key_1", 1, 0)
	report("key_2", 0, 0)
	report("unknown", 5, 5)
	now = now.Add(time.Minute)
	report("key_1", 0, 2)
	report("key_1", -5, 1<<62)
	report("key_1", 1, 1<<62)

	rows, err := s.readers.QueryContext(t.Context(), "SELECT k.id, hour, allowed, denied FROM usage JOIN keys k ON k.seq = key ORDER BY 1, 2")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	got := ""
	for rows.Next() {
		var id string
		var hour time.Time
		var allowed, denied int64
		if err := rows.Scan(&id, (*sqlstore.Stamp)(&hour), &allowed, &denied); err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprintln(id, hour.Format(time.TimeOnly), allowed, denied)
	}
	want := fmt.Sprintln("key_1 12:00:00 8 2") + fmt.Sprintln("key_1 13:00:00 2", int64(sqlstore.MaxCount))
	if err := rows.Err(); err != nil || got != want {
		t.Fatalf("%v, got\n%swant\n%s", err, got, want)
	}
}
