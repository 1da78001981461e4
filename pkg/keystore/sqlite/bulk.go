package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// AmongTexts implements sqlstore.Bulk.
func (s *Store) AmongTexts(column string, texts []string) (condition string, arg any) {
	return column + " IN (SELECT value FROM json_each(?))", jsonList(texts)
}

// AmongDigests implements sqlstore.Bulk.
func (s *Store) AmongDigests(column string, digests []credential.Digest) (condition string, arg any) {
	return column + " IN (SELECT unhex(value) FROM json_each(?))", s.DigestList(digests)
}

func jsonList(texts []string) string {
	list, _ := json.Marshal(texts) // texts can always be encoded
	return string(list)
}

// LockRows implements sqlstore.Bulk. SQLite has one writer.
func (s *Store) LockRows() string { return "" }

// loadStep is how many rows one INSERT has. Smaller executes more statements; with larger, parsing the statement costs more
// than it saves.
const loadStep = 100

// Load implements sqlstore.Bulk.
func (s *Store) Load(t *sqlstore.Tx, table string, columns []string, n int, row func(i int) []any) error {
	insert := "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES "
	values := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
	args := make([]any, 0, loadStep*len(columns))
	for i := range n {
		args = append(args, row(i)...)
		if i+1 < n && len(args) < cap(args) {
			continue
		}
		step := len(args) / len(columns)
		if err := t.Execute(t.Ctx, insert+values+strings.Repeat(", "+values, step-1), args...); err != nil {
			return err
		}
		args = args[:0]
	}
	return nil
}

// Duplicate implements sqlstore.Bulk.
func (s *Store) Duplicate(err error) bool {
	var engine *sqlite.Error
	return errors.As(err, &engine) && engine.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}

// Refused implements sqlstore.Bulk.
func (s *Store) Refused(err error) bool {
	var engine *sqlite.Error
	if !errors.As(err, &engine) {
		return false
	}
	switch engine.Code() & 0xff { // without the extension
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE:
		return true
	}
	return false
}

// RecordUsage implements keystore.Admin. The name of the sidecar is not stored. Counts belong to the hour of the report,
// about a minute after the use, so that a sidecar with a wrong clock adds nothing to another year.
func (s *Store) RecordUsage(ctx context.Context, _ string, used []keystore.Usage) error {
	const what = "record usage"
	if len(used) == 0 {
		return sqlstore.Wrap(ctx, s, what, ctx.Err())
	}
	var rows [][4]any // digest, last used, allowed, denied
	for _, r := range sqlstore.MergeUsage(used, s.clock.wall()) {
		rows = append(rows, [4]any{r.Digest.Hex(), r.LastUsedAt, r.Allowed, r.Denied})
	}
	report, err := json.Marshal(rows)
	if err != nil {
		return sqlstore.Wrap(ctx, s, what, err)
	}
	_, err = sqlstore.Mutate(ctx, s, what, "", func(t *sqlstore.Tx) (struct{}, error) {
		t.Exec("CREATE TEMP TABLE IF NOT EXISTS report (key INTEGER PRIMARY KEY, last INTEGER, allowed INTEGER, denied INTEGER)")
		t.Exec("DELETE FROM report")
		t.Exec(`INSERT INTO report SELECT k.seq, u.value->>1, u.value->>2, u.value->>3
			FROM json_each(?) u JOIN keys k ON k.digest = unhex(u.value->>0)`, string(report))
		t.Exec(`UPDATE keys SET last_used_at = r.last FROM report r
			WHERE keys.seq = r.key AND r.last > coalesce(keys.last_used_at, 0)`)
		// A sum is bounded, so that it never exceeds an integer.
		t.Exec(`INSERT INTO usage (key, hour, allowed, denied) SELECT key, ?, allowed, denied FROM report WHERE allowed + denied > 0
			ON CONFLICT DO UPDATE SET allowed = min(allowed + excluded.allowed, ?2), denied = min(denied + excluded.denied, ?2)`,
			sqlstore.Stamp(t.Now.Truncate(time.Hour)), sqlstore.MaxCount)
		return struct{}{}, nil
	})
	return err
}
