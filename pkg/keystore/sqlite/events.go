package sqlite

import (
	"context"
	"math"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func scanEvent(row scanner, seq *int64) (keystore.Event, error) {
	var e keystore.Event
	err := row.Scan(seq, (*stamp)(&e.At), &e.Actor, (*string)(&e.Action), &e.Account, (*text)(&e.Key), (*detail)(&e.Detail))
	return e, err
}

// Events implements keystore.Admin.
func (s *Store) Events(ctx context.Context, account, key string, page keystore.Page) ([]keystore.Event, string, error) {
	l := s.listing("events", account, key)
	before, err := l.begin(page)
	if err != nil {
		return nil, "", err
	}
	if before == 0 {
		before = math.MaxInt64
	}
	query, args := "SELECT seq, at, actor, action, account, key, detail FROM events WHERE seq < ?", []any{before}
	if account != "" {
		query, args = query+" AND account = ?", append(args, account)
	}
	if key != "" {
		query, args = query+" AND key = ?", append(args, key)
	}
	events, next, err := list(ctx, s.readers, l, page.Limit, scanEvent,
		query+" ORDER BY seq DESC LIMIT ?", append(args, page.Limit+1)...)
	return events, next, failed(ctx, "events", err)
}
