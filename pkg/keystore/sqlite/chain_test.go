package sqlite

import (
	"context"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// countingEngine counts the statements of mutations.
type countingEngine struct {
	*Store
	statements int
}

func (e *countingEngine) Mutate(ctx context.Context, lane sqlstore.Lane, actor string, do func(t *sqlstore.Tx) error) error {
	return e.Store.Mutate(ctx, lane, actor, func(t *sqlstore.Tx) error {
		t.Conn = countingConn{t.Conn, &e.statements}
		return do(t)
	})
}

type countingConn struct {
	sqlstore.Conn
	n *int
}

func (c countingConn) Query(ctx context.Context, query string, args ...any) (sqlstore.Rows, error) {
	*c.n++
	return c.Conn.Query(ctx, query, args...)
}

func (c countingConn) Execute(ctx context.Context, query string, args ...any) error {
	*c.n++
	return c.Conn.Execute(ctx, query, args...)
}

// A chain with many expired keys is revoked by as many statements as a short one: other writes wait meanwhile.
func TestRevokeChainOfManyExpiredKeys(t *testing.T) {
	s := withAccount(t, Options{})
	engine := &countingEngine{Store: s}
	core := sqlstore.NewCore(engine, queries, nil)
	defer core.Stop()
	revoke := func(chain string, keys int) (statements int) {
		t.Helper()
		_, err := sqlstore.Mutate(t.Context(), s, "fill", "", func(t *sqlstore.Tx) (struct{}, error) {
			t.Exec(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
				INSERT INTO keys (id, account, digest, label, hint, scopes, created_at, created_by, expires_at, chain, revision)
				SELECT ?2 || i, seq, randomblob(32), '', '', '', 0, '', 1, ?2 || 1, 0 FROM n, accounts`, keys, chain)
			return struct{}{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		engine.statements = 0
		began := time.Now()
		done, err := core.RevokeChain(t.Context(), "operator:test", chain+"2", "")
		if err != nil || len(done.Revoked) != keys || done.Revoked[1] != chain+"2" || done.Key.RevokedAt.IsZero() {
			t.Fatalf("revoked %d of %d, %v", len(done.Revoked), keys, err)
		}
		t.Logf("%d keys took %v", keys, time.Since(began))
		return engine.statements
	}
	if short, long := revoke("a", 2), revoke("b", 2000); long > short {
		t.Errorf("%d statements for 2,000 keys, %d for 2", long, short)
	}
}
