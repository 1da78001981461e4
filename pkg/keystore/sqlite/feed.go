package sqlite

import (
	"context"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

const headColumns = "h.epoch, h.revision, h.not_before"

var queries = sqlstore.NewQueries(sqlstore.Dialect{
	Head:        "(SELECT epoch, revision, not_before, ?1 AS now FROM head)",
	HeadColumns: headColumns,
	ByteOrder:   "COLLATE BINARY",
	Behind: `SELECT name, CASE WHEN grants->>'$[#-1][0]' < ?2 THEN grants->>'$[#-1][1]'
			ELSE (SELECT max(value->>1) FROM json_each(grants) WHERE value->>0 < ?2) END AS ends
		FROM sidecars WHERE revision < ?2 AND stale_ends_at > (SELECT now FROM h) AND NOT gone`,
	NamesJSON: "json_group_array(name)",
	// CROSS JOIN makes the list the outer loop, so that each digest is found by the index.
	Known: `
		SELECT 1 AS kind, c.digest, c.id, c.revoked_at AS ended_at, c.expires_at, c.scopes, a.id AS account, a.terminated_at
		FROM json_each(?2) listed CROSS JOIN keys c ON c.digest = unhex(listed.value) JOIN accounts a ON a.seq = c.account
		UNION ALL
		SELECT 2, c.digest, c.id, c.ended_at, c.expires_at, '', a.id, a.terminated_at
		FROM json_each(?2) listed CROSS JOIN sessions c ON c.digest = unhex(listed.value) JOIN accounts a ON a.seq = c.account`,
})

// Changed implements keystore.Feed.
func (s *Store) Changed() <-chan struct{} { return s.changed.Wait() }

// Head implements keystore.Feed.
func (s *Store) Head(ctx context.Context) (keystore.Head, error) {
	_ = s.files.check() // the server reads the head each second, so a deleted file is logged soon
	return s.Core.Head(ctx)
}

// columns returns where headColumns go, before those of more.
func columns(h *keystore.Head, more ...any) []any {
	return append([]any{&h.Epoch, &h.Revision, (*sqlstore.Stamp)(&h.NotBefore)}, more...)
}

// now reads the clocks. Call it before the query: a poll that is recorded between the two is in the query's snapshot, and
// its lease is compared with an earlier time.
func (s *Store) now() (at sqlstore.Snapshot, lease sqlstore.Stamp) {
	t := sqlstore.Cut(s.clock.lease())
	at.Step = s.clock.stepped()
	at.Now = t.Add(at.Step)
	return at, sqlstore.Stamp(t)
}

func notBefore(at *sqlstore.Snapshot) {
	if !at.NotBefore.IsZero() {
		at.NotBefore = at.NotBefore.Add(at.Step)
	}
}

// HeadIn implements sqlstore.HeadReader.
func (s *Store) HeadIn(t *sqlstore.Tx) (keystore.Head, error) {
	at, _ := s.now()
	err := sqlstore.QueryRow(t.Ctx, t, "SELECT "+headColumns+" FROM head h").Scan(columns(&at.Head)...)
	notBefore(&at)
	return at.Head, err
}

// ReadHead implements sqlstore.HeadReader. One statement is one snapshot, and costs a third of a transaction with two.
func (s *Store) ReadHead(ctx context.Context, what, query string, args, dest []any, each func() error) (sqlstore.Snapshot, error) {
	at, err := s.readHead(ctx, query, args, dest, each)
	return at, sqlstore.Wrap(ctx, s, what, err)
}

func (s *Store) readHead(ctx context.Context, query string, args, dest []any, each func() error) (sqlstore.Snapshot, error) {
	at, lease := s.now()
	rows, err := s.statements[query].QueryContext(ctx, append([]any{lease}, args...)...)
	if err != nil {
		return at, err
	}
	defer func() { _ = rows.Close() }()
	all := columns(&at.Head, dest...)
	for rows.Next() {
		if err := rows.Scan(all...); err != nil {
			return at, err
		}
		if err := each(); err != nil {
			return at, err
		}
	}
	notBefore(&at)
	return at, rows.Err()
}

// DigestList implements sqlstore.HeadReader: a JSON array of hexadecimal strings.
func (s *Store) DigestList(digests []credential.Digest) any {
	list := make([]string, len(digests))
	for i, d := range digests {
		list[i] = d.Hex()
	}
	return jsonList(list)
}
