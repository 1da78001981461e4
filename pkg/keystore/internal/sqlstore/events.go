package sqlstore

import (
	"context"
	"math"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func scanEvent(row Scanner, seq *int64) (keystore.Event, error) {
	var e keystore.Event
	err := row.Scan(seq, (*Stamp)(&e.At), &e.Actor, (*string)(&e.Action), &e.Account, (*Text)(&e.Key), (*Detail)(&e.Detail))
	return e, err
}

// Events implements keystore.Admin.
func (s *Core) Events(ctx context.Context, account, key string, page keystore.Page) ([]keystore.Event, string, error) {
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
	events, next, err := list(ctx, s.engine.Reader(), l, page.Limit, scanEvent,
		query+" ORDER BY seq DESC LIMIT ?", append(args, page.Limit+1)...)
	return events, next, Failed(ctx, s.engine, "events", err)
}
