package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// uniqueViolation is the SQLSTATE of a row that a unique index refuses.
const uniqueViolation = "23505"

// refusedValues are the prefixes of the SQLSTATEs of a statement that is refused for its values: data exceptions, integrity
// constraint violations, exceeded limits of the server (PostgreSQL, appendix A).
var refusedValues = []string{"22", "23", "54"}

// AmongTexts implements sqlstore.Bulk.
func (s *Store) AmongTexts(column string, texts []string) (condition string, arg any) {
	return column + " = ANY (?::text[])", texts
}

// AmongDigests implements sqlstore.Bulk. The digests are one value, because an array would be written and read as text.
func (s *Store) AmongDigests(column string, digests []credential.Digest) (condition string, arg any) {
	joined := make([]byte, 0, len(digests)*len(credential.Digest{}))
	for i := range digests {
		joined = append(joined, digests[i][:]...)
	}
	return column + ` = ANY (ARRAY(SELECT substring(joined FROM 32 * i + 1 FOR 32)
		FROM (SELECT ?::bytea AS joined) AS d, generate_series(0, length(joined) / 32 - 1) AS i))`, joined
}

// LockRows implements sqlstore.Bulk.
func (s *Store) LockRows() string { return " FOR NO KEY UPDATE" }

// Load implements sqlstore.Bulk by COPY. It changes nothing in the session, so it works through a pooler.
func (s *Store) Load(t *sqlstore.Tx, table string, columns []string, n int, row func(i int) []any) error {
	c, ok := t.Conn.(*tx)
	if !ok {
		return fmt.Errorf("load %s: %T is not a transaction of Mutate", table, t.Conn)
	}
	if err := c.flush(t.Ctx); err != nil {
		return err
	}
	_, err := c.conn.CopyFrom(t.Ctx, pgx.Identifier{table}, columns,
		pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(i), nil }))
	return err
}

// Duplicate implements sqlstore.Bulk.
func (s *Store) Duplicate(err error) bool {
	var engine *pgconn.PgError
	return errors.As(err, &engine) && engine.Code == uniqueViolation
}

// Refused implements sqlstore.Bulk.
func (s *Store) Refused(err error) bool {
	var engine *pgconn.PgError
	return errors.As(err, &engine) && hasPrefix(engine.Code, refusedValues) && !errors.Is(err, errUnknownOutcome)
}

// usageQuery locks the keys in the order of their seq, so that two reports never deadlock. A sum is bounded, so that it
// never exceeds an integer.
const usageQuery = `
	WITH report AS MATERIALIZED (
		SELECT k.seq, u.last, u.allowed, u.denied
		FROM unnest(?::bytea[], ?::bigint[], ?::bigint[], ?::bigint[]) AS u (digest, last, allowed, denied)
		JOIN keys k ON k.digest = u.digest
		ORDER BY k.seq FOR NO KEY UPDATE OF k
	), touched AS (
		UPDATE keys SET last_used_at = r.last FROM report r
		WHERE keys.seq = r.seq AND r.last > coalesce(keys.last_used_at, 0)
	)
	INSERT INTO usage (key, hour, allowed, denied)
	SELECT seq, ?::bigint, allowed, denied FROM report WHERE allowed + denied > 0 ORDER BY seq
	ON CONFLICT (key, hour) DO UPDATE SET
		allowed = least(usage.allowed + excluded.allowed, ?::bigint), denied = least(usage.denied + excluded.denied, ?6)`

// RecordUsage implements keystore.Admin. The name of the sidecar is not stored. Counts belong to the hour of the report, as
// in the other engines. It is no mutation: it waits only for mutations of the keys that it names.
func (s *Store) RecordUsage(ctx context.Context, _ string, used []keystore.Usage) error {
	const what = "record usage"
	if len(used) == 0 {
		return sqlstore.Wrap(ctx, s, what, ctx.Err())
	}
	head, err := s.Head(ctx)
	if err != nil {
		return err
	}
	rows := sqlstore.MergeUsage(used, head.Now)
	digests := make([][]byte, len(rows))
	last, allowed, denied := make([]int64, len(rows)), make([]int64, len(rows)), make([]int64, len(rows))
	for i, r := range rows {
		digests[i], last[i], allowed[i], denied[i] = r.Digest[:], r.LastUsedAt, r.Allowed, r.Denied
	}
	// One round trip and one transaction, with a limit of its own in place of the role's.
	batch := &pgx.Batch{}
	batch.Queue("SELECT set_config('lock_timeout', $1, true)", milliseconds(lockTimeout))
	batch.Queue(numbered(usageQuery), digests, last, allowed, denied, head.Now.Truncate(time.Hour).UnixMicro(), int64(sqlstore.MaxCount))
	return sqlstore.Wrap(ctx, s, what, s.pool.SendBatch(ctx, batch).Close())
}
