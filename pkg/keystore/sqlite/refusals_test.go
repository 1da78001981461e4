package sqlite_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/storetest"
)

func TestRefusalsWhileWriting(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "keys.db"), sqlite.Options{})
	h := storetest.Harness{Store: s, Close: func() { _ = s.Close() }}
	storetest.RefuseWhileWriting(t, h, func() func() { return holdWriter(t, s) })
}

// holdWriter keeps the store in a transaction until release is called.
func holdWriter(t *testing.T, s *sqlite.Store) (release func()) {
	t.Helper()
	held, stop := make(chan struct{}), make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		if err := s.Mutate(context.Background(), sqlstore.LaneOperators, "operator:test", func(*sqlstore.Tx) error { close(held); <-stop; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-held
	return func() { close(stop); work.Wait() }
}

// Queries over the keys in force use an index.
func TestKeysInForceAreReadByIndex(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := open(t, path, sqlite.Options{})
	defer func() { _ = s.Close() }()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for name, c := range map[string]struct{ query, index string }{
		"limit": {sqlstore.CountInForce, "INDEX keys_in_force (account=? AND expires_at>?)"},
		"chain": {"SELECT 1 FROM keys k WHERE k.chain = ? AND k.revoked_at IS NULL ORDER BY k.seq", "INDEX keys_by_chain (chain=? AND revoked_at=?)"},
	} {
		plan := planOf(t, db, c.query)
		if strings.Contains(plan, "SCAN keys") || !strings.Contains(plan, c.index) {
			t.Errorf("%s:\n%s", name, plan)
		}
	}
}

// planOf returns SQLite's plan for a query with up to three arguments.
func planOf(t *testing.T, db *sql.DB, query string) string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, 1, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(detail + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}
