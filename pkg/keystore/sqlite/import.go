package sqlite

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlstore"
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
func (s *Store) Load(t *sqlstore.Tx, table string, columns []string, rows [][]any) error {
	insert := "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES "
	row := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
	for step := range slices.Chunk(rows, loadStep) {
		t.Exec(insert+row+strings.Repeat(", "+row, len(step)-1), slices.Concat(step...)...)
	}
	return t.Err
}
