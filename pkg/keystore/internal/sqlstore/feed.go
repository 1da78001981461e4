package sqlstore

import (
	"context"
	"encoding/json"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Snapshot is the head that a query has read in the snapshot of its other results.
type Snapshot struct {
	keystore.Head
	// Step is how far the wall clock is ahead of the clock that counts leases. The head's times are of the wall clock.
	Step time.Duration
}

// HeadReader reads the head, alone or together with other rows.
type HeadReader interface {
	// ReadHead runs one of Queries. Each row begins with Dialect.HeadColumns. Their values go into the
	// snapshot, those of the other columns into dest, and then each is called. Arguments begin with ?2.
	ReadHead(ctx context.Context, what, query string, args, dest []any, each func() error) (Snapshot, error)
	// HeadIn reads the head in a transaction of Mutate.
	HeadIn(t *Tx) (keystore.Head, error)
	// DigestList is the value that Dialect.Known takes for a list of digests.
	DigestList(digests []credential.Digest) any
}

// Dialect has the parts of queries that differ between engines.
type Dialect struct {
	// Head is the query, in parentheses, of the table h, which has one row: the head and, in the column now, the clock that
	// counts leases. Its argument is ?1.
	Head string
	// HeadColumns are the columns of h that ReadHead reads.
	HeadColumns string
	// ByteOrder is the collation that orders texts as bytes.
	ByteOrder string
	// Behind is the query of the sidecars that may answer without the change of a revision (?2), in the columns name and
	// ends: the end of the last grant that does not cover the change. Grants are in rising order.
	Behind string
	// NamesJSON is the aggregate of the column name as the text of a JSON array.
	NamesJSON string
	// Known is the query of the credentials that have one of the digests (?2): kind (1 for keys, 2 for sessions), digest,
	// id, ended_at, expires_at, scopes, account and terminated_at.
	Known string
}

// Queries are the queries of Feed in the dialect of an engine.
type Queries struct{ head, changes, sidecars, progress, leases, resolve string }

// All returns the texts of all queries.
func (q *Queries) All() []string {
	return []string{q.head, q.changes, q.sidecars, q.progress, q.leases, q.resolve}
}

// NewQueries makes the queries of a dialect.
func NewQueries(d Dialect) *Queries {
	with := "WITH h AS " + d.Head
	return &Queries{
		head: with + " SELECT " + d.HeadColumns + " FROM h",
		// The range of revisions has two ends because the log has no gaps. PostgreSQL's planner expects many rows of a
		// range with one end, and compiles the query first.
		changes: with + ` SELECT ` + d.HeadColumns + `, coalesce((SELECT min(revision) FROM log), h.revision + 1), coalesce(l.revision, 0), l.account, l.digest
			FROM h LEFT JOIN log l ON l.revision BETWEEN ?2 AND ?3
			ORDER BY l.revision`,
		sidecars: with + ` SELECT ` + d.HeadColumns + `, coalesce(c.name, ''), coalesce(c.poll, 0), coalesce(c.revision, 0), c.lease_ends_at, c.stale_ends_at,
				coalesce(c.grants, '[]')
			FROM h LEFT JOIN (SELECT * FROM sidecars
				WHERE name ` + d.ByteOrder + ` > ?2 AND stale_ends_at > (SELECT now FROM h) AND NOT gone
				ORDER BY name ` + d.ByteOrder + ` LIMIT ?3) c ON true
			ORDER BY c.name ` + d.ByteOrder,
		// Subqueries read the column now, because PostgreSQL's planner expects many rows of a join.
		progress: with + ", behind AS MATERIALIZED (" + d.Behind + `),
				waiting AS MATERIALIZED (SELECT name, ends FROM behind WHERE ends > (SELECT now FROM h))
			SELECT ` + d.HeadColumns + `, (SELECT count(*) FROM waiting), (SELECT max(ends) FROM waiting),
				coalesce((SELECT ` + d.NamesJSON + ` FROM (SELECT name FROM waiting ORDER BY name ` + d.ByteOrder + ` LIMIT ?3) AS named), '[]')
			FROM h`,
		leases: with + ` SELECT ` + d.HeadColumns + `, l.held, coalesce(l.revision, h.revision), l.first_end
			FROM h CROSS JOIN (SELECT count(*) AS held, min(revision) AS revision, min(lease_ends_at) AS first_end
				FROM sidecars WHERE NOT gone AND lease_ends_at > (SELECT now FROM h)) l`,
		resolve: with + `, known AS (` + d.Known + `)
			SELECT ` + d.HeadColumns + `, coalesce(kind, 0), digest, coalesce(id, ''), ended_at, expires_at, coalesce(scopes, ''), coalesce(account, ''), terminated_at
			FROM h LEFT JOIN known ON true`,
	}
}

// wallTime converts a time of the clock that counts leases to the wall clock.
func wallTime(t time.Time, step time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(step)
}

// wallSidecar converts a record's times to the wall clock.
func wallSidecar(c *keystore.Sidecar, step time.Duration) {
	c.LeaseEndsAt, c.StaleEndsAt = wallTime(c.LeaseEndsAt, step), wallTime(c.StaleEndsAt, step)
	for i := range c.Grants {
		c.Grants[i].StaleEndsAt = wallTime(c.Grants[i].StaleEndsAt, step)
	}
}

func noRest() error { return nil }

// Head implements keystore.Feed.
func (s *Core) Head(ctx context.Context) (keystore.Head, error) {
	at, err := s.engine.ReadHead(ctx, "head", s.queries.head, nil, nil, noRest)
	return at.Head, err
}

// Changes implements keystore.Feed.
func (s *Core) Changes(ctx context.Context, epoch string, after int64, limit int) (keystore.Head, []keystore.Change, error) {
	var oldest int64
	var c keystore.Change
	changes := []keystore.Change{}
	at, err := s.engine.ReadHead(ctx, "changes", s.queries.changes, []any{after + 1, after + int64(limit)},
		[]any{&oldest, &c.Revision, (*Text)(&c.Account), (*Digest)(&c.Digest)}, func() error {
			if c.Revision > 0 {
				changes = append(changes, c)
			}
			return nil
		})
	switch {
	case err != nil:
		return keystore.Head{}, nil, err
	case epoch != at.Epoch || after > at.Revision || after < oldest-1:
		return at.Head, nil, keystore.ErrGone
	}
	return at.Head, changes, nil
}

// kinds are the kinds of Dialect.Known.
var kinds = map[int]credential.Kind{1: credential.Key, 2: credential.Session}

// Resolve implements keystore.Feed.
func (s *Core) Resolve(ctx context.Context, digests []credential.Digest) (keystore.Head, []keystore.Fact, error) {
	places := make(map[credential.Digest][]int, len(digests))
	distinct := make([]credential.Digest, 0, len(digests))
	for i, d := range digests {
		if places[d] == nil {
			distinct = append(distinct, d)
		}
		places[d] = append(places[d], i)
	}
	facts := make([]keystore.Fact, len(digests))
	var kind int
	var digest credential.Digest
	var ended, terminated time.Time
	var r credential.Record
	at, err := s.engine.ReadHead(ctx, "resolve", s.queries.resolve, []any{s.engine.DigestList(distinct)}, []any{
		&kind, (*Digest)(&digest), &r.ID, (*Stamp)(&ended), (*Stamp)(&r.ExpiresAt),
		(*Scopes)(&r.Scopes), &r.Account.ID, (*Stamp)(&terminated),
	}, func() error {
		if kind == 0 {
			return nil // no digest is known
		}
		r.Kind, r.State, r.Account.State = kinds[kind], credential.Active, credential.Active
		if !ended.IsZero() {
			r.State = credential.Revoked
		}
		if !terminated.IsZero() {
			r.Account.State = credential.Terminated
		}
		for _, place := range places[digest] {
			facts[place] = keystore.Fact{Found: true, Record: r}
		}
		return nil
	})
	if err != nil {
		return keystore.Head{}, nil, err
	}
	return at.Head, facts, nil
}

// Sidecars implements keystore.Feed.
func (s *Core) Sidecars(ctx context.Context, page keystore.Page) (keystore.Head, []keystore.Sidecar, string, error) {
	l := s.listing("sidecars")
	after, err := l.position(page)
	if err != nil {
		return keystore.Head{}, nil, "", err
	}
	var c keystore.Sidecar
	list, next := []keystore.Sidecar{}, ""
	at, err := s.engine.ReadHead(ctx, "sidecars", s.queries.sidecars, []any{string(after), page.Limit + 1},
		[]any{&c.Name, &c.Poll, &c.Revision, (*Stamp)(&c.LeaseEndsAt), (*Stamp)(&c.StaleEndsAt), (*Grants)(&c.Grants)}, func() error {
			if c.Name != "" {
				list = append(list, c)
			}
			return nil
		})
	if err != nil {
		return keystore.Head{}, nil, "", err
	}
	if len(list) > page.Limit {
		list = list[:page.Limit]
		next = l.cursor([]byte(list[page.Limit-1].Name))
	}
	for i := range list {
		wallSidecar(&list[i], at.Step)
	}
	return at.Head, list, next, nil
}

// Progress implements keystore.Feed.
func (s *Core) Progress(ctx context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	var p keystore.Progress
	var ends time.Time
	var names string
	at, err := s.engine.ReadHead(ctx, "progress", s.queries.progress, []any{revision, keystore.MaxWaitingFor},
		[]any{&p.Waiting, (*Stamp)(&ends), &names}, func() error { return json.Unmarshal([]byte(names), &p.WaitingFor) })
	if err != nil {
		return keystore.Head{}, keystore.Progress{}, err
	}
	p.SetEffective(at.Head, wallTime(ends, at.Step))
	return at.Head, p, nil
}

// Leases implements keystore.Feed.
func (s *Core) Leases(ctx context.Context) (keystore.Head, keystore.Leases, error) {
	var l keystore.Leases
	at, err := s.engine.ReadHead(ctx, "leases", s.queries.leases, nil, []any{&l.Count, &l.Revision, (*Stamp)(&l.FirstEnd)}, noRest)
	if err != nil {
		return keystore.Head{}, keystore.Leases{}, err
	}
	l.FirstEnd = wallTime(l.FirstEnd, at.Step)
	return at.Head, l, nil
}
