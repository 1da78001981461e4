package sqlite

import (
	"encoding/json"
	"errors"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// AmongTexts implements sqlstore.Bulk.
func (s *Store) AmongTexts(column string, texts []string) (condition string, arg any) {
	return column + " IN (SELECT value FROM json_each(?))", jsonList(texts)
}

// AmongDigests implements sqlstore.Bulk.
func (s *Store) AmongDigests(column string, digests []credential.Digest) (condition string, arg any) {
	list := make([]string, len(digests))
	for i, d := range digests {
		list[i] = d.Hex()
	}
	return column + " IN (SELECT unhex(value) FROM json_each(?))", jsonList(list)
}

func jsonList(texts []string) string {
	list, _ := json.Marshal(texts) // strings always can be
	return string(list)
}

// loadStep is how many rows one INSERT has: with more of them, reading its text costs more
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
		if _, err := t.ExecContext(t.Ctx, insert+values+strings.Repeat(", "+values, step-1), args...); err != nil {
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
