package postgres

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// usageQuery locks the keys in the order of their seq, so that two reports never wait
// for each other. A sum that leaves the integers must not fail the report.
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

// RecordUsage implements keystore.Admin. Whose report it was is not kept. The
// counts belong to the hour of the report, as in the other engines. It waits for no
// mutation, and none for more than the keys it names.
func (s *Store) RecordUsage(ctx context.Context, _ string, used []keystore.Usage) error {
	const what = "record usage"
	if len(used) == 0 {
		return sqlstore.Failed(ctx, s, what, ctx.Err())
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
	_, err = conn{s.db}.ExecContext(ctx, usageQuery, digests, last, allowed, denied,
		sqlstore.Stamp(head.Now.Truncate(time.Hour)), int64(sqlstore.MaxCount))
	return sqlstore.Failed(ctx, s, what, err)
}
