package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

var (
	errStandby = errors.New("the server is a standby")
	// errTimeline: this is another server than the one of the last mutation.
	errTimeline = errors.New("the server has a new timeline")
)

// headQuery reads the server's clock, plus what tests add to it (?1, in microseconds). The clock is older than the snapshot:
// a poll that is recorded between the two is in the snapshot, and its lease is compared with an earlier time.
const headQuery = `SELECT epoch, revision, not_before, timeline,
	(extract(epoch FROM statement_timestamp()) * 1000000)::bigint + ?1::bigint AS now,
	CASE WHEN pg_is_in_recovery() THEN 0
		ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint END AS current FROM head`

// lockedHead is headQuery after the lock was awaited, perhaps in the same message.
var lockedHead = strings.Replace(headQuery, "statement_timestamp()", "clock_timestamp()", 1)

var queries = sqlstore.NewQueries(sqlstore.Dialect{
	Head:        "MATERIALIZED (" + headQuery + ")",
	HeadColumns: "h.*",
	ByteOrder:   `COLLATE "C"`,
	Behind: `SELECT name, CASE WHEN (g->-1->>0)::bigint < ?2 THEN (g->-1->>1)::bigint
			ELSE (SELECT max((one->>1)::bigint) FROM json_array_elements(g) one WHERE (one->>0)::bigint < ?2) END AS ends
		FROM (SELECT name, grants::json AS g FROM sidecars
			WHERE revision < ?2 AND stale_ends_at > (SELECT now FROM h) AND NOT gone) AS c`,
	NamesJSON: "json_agg(name)::text",
	Known: `
		SELECT 1 AS kind, c.digest, c.id, c.revoked_at AS ended_at, c.expires_at, c.scopes, a.id AS account, a.terminated_at
		FROM keys c JOIN accounts a ON a.seq = c.account WHERE c.digest = ANY (?2::bytea[])
		UNION ALL
		SELECT 2, c.digest, c.id, c.ended_at, c.expires_at, '', a.id, a.terminated_at
		FROM sessions c JOIN accounts a ON a.seq = c.account WHERE c.digest = ANY (?2::bytea[])`,
})

// head is the row of headQuery.
type head struct {
	keystore.Head
	recorded, current int64 // timelines; current is 0 on a standby
}

// columns returns where the columns of headQuery go, before those of more.
func (h *head) columns(more ...any) []any {
	return append([]any{
		&h.Epoch, &h.Revision, (*sqlstore.Stamp)(&h.NotBefore), &h.recorded, (*sqlstore.Stamp)(&h.Now), &h.current,
	}, more...)
}

func (h *head) check() error {
	switch h.current {
	case 0:
		return errStandby
	case h.recorded:
		return nil
	}
	return errTimeline
}

// public is the head that the store returns: the timeline is part of its epoch.
func (h *head) public() keystore.Head {
	h.Epoch = fmt.Sprintf("%s.%d", h.Epoch, h.current)
	return h.Head
}

// Changed implements keystore.Feed.
func (s *Store) Changed() <-chan struct{} { return s.changed.Wait() }

func (s *Store) headIn(t *sqlstore.Tx) (h head, err error) {
	err = sqlstore.QueryRow(t.Ctx, t, lockedHead, s.skewMicros()).Scan(h.columns()...)
	return h, err
}

// HeadIn implements sqlstore.HeadReader.
func (s *Store) HeadIn(t *sqlstore.Tx) (keystore.Head, error) {
	h, err := s.headIn(t)
	return h.public(), err
}

// ReadHead implements sqlstore.HeadReader. If the server has a new timeline, it puts that on record and reads again.
func (s *Store) ReadHead(ctx context.Context, what, query string, args, dest []any, each func() error) (sqlstore.Snapshot, error) {
	h, err := s.readHead(ctx, query, args, dest, each)
	if errors.Is(err, errTimeline) {
		if err = s.Mutate(ctx, sqlstore.LanePolls, "", func(*sqlstore.Tx) error { return nil }); err == nil {
			h, err = s.readHead(ctx, query, args, dest, each)
		}
	}
	if err != nil {
		return sqlstore.Snapshot{}, sqlstore.Wrap(ctx, s, what, err)
	}
	return sqlstore.Snapshot{Head: h.public()}, nil
}

// readHead checks the timeline before it calls each for the first time.
func (s *Store) readHead(ctx context.Context, query string, args, dest []any, each func() error) (h head, err error) {
	rows, err := s.Reader().Query(ctx, query, append([]any{s.skewMicros()}, args...)...)
	if err != nil {
		return h, err
	}
	defer func() { _ = rows.Close() }()
	all := h.columns(dest...)
	for rows.Next() {
		if err := rows.Scan(all...); err != nil {
			return h, err
		}
		if err := h.check(); err != nil {
			return h, err
		}
		if err := each(); err != nil {
			return h, err
		}
	}
	return h, rows.Err()
}

// DigestList implements sqlstore.HeadReader.
func (s *Store) DigestList(digests []credential.Digest) any {
	list := make([][]byte, len(digests))
	for i := range digests {
		list[i] = digests[i][:]
	}
	return list
}

// skewMicros returns the microseconds that tests add to the server's clock.
func (s *Store) skewMicros() int64 { return s.skew.Load() / 1000 }

const (
	// probeTime is how long a notification of this process may take to arrive. Smaller gives up on a slow server; larger finds
	// out later that a pooler passes on no notifications.
	probeTime = 2 * time.Second
	// listenAgain is the pause before the next attempt. Smaller makes more connections to a server that is away; larger makes
	// changes of other processes visible only each second for longer.
	listenAgain = 10 * time.Second
)

// listen wakes all that wait on Changed when another process has changed something, until ctx ends.
func (s *Store) listen(ctx context.Context) {
	for ctx.Err() == nil {
		s.listenOnce(ctx)
		s.changed.Wake() // notifications may be lost
		select {
		case <-time.After(listenAgain):
		case <-ctx.Done():
		}
	}
}

// listenOnce listens on a separate connection until that ends. Behind a pooler in transaction mode no notification arrives;
// a notification that this process sends detects that.
func (s *Store) listenOnce(ctx context.Context) {
	conf := s.pool.Config()
	conf.ConnConfig.DialFunc = dialer.DialContext // this connection is mostly silent
	if err := conf.BeforeConnect(ctx, conf.ConnConfig); err != nil {
		return
	}
	c, err := pgx.ConnectConfig(ctx, conf.ConnConfig)
	if err != nil {
		return
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	}()
	if _, err := c.Exec(ctx, "LISTEN "+channel); err != nil {
		return
	}
	if _, err := s.pool.Exec(ctx, "SELECT pg_notify($1, 'probe')", channel); err != nil {
		return
	}
	probe, cancel := context.WithTimeout(ctx, probeTime)
	_, err = c.WaitForNotification(probe)
	cancel()
	for err == nil {
		s.changed.Wake()
		err = await(ctx, c)
	}
}

// await waits for a notification. It pings the server when none arrives for a while.
func await(ctx context.Context, c *pgx.Conn) error {
	for {
		waits, cancel := context.WithTimeout(ctx, silence)
		_, err := c.WaitForNotification(waits)
		quiet := waits.Err() != nil && ctx.Err() == nil
		cancel()
		if !quiet {
			return err
		}
		pings, cancel := context.WithTimeout(ctx, probeTime)
		err = c.Ping(pings)
		cancel()
		if err != nil {
			return err
		}
	}
}
