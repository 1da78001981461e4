package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strconv"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlstore"
)

// conn runs queries with arguments as sqlstore writes them.
type conn struct{ sqlstore.Conn }

// QueryContext implements sqlstore.Querier.
func (c conn) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	args, err := values(args)
	if err != nil {
		return nil, err
	}
	return c.Conn.QueryContext(ctx, numbered(query), args...)
}

// QueryRowContext implements sqlstore.Querier.
func (c conn) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if converted, err := values(args); err == nil {
		args = converted
	} // else the driver finds the same error
	return c.Conn.QueryRowContext(ctx, numbered(query), args...)
}

// ExecContext implements sqlstore.Conn.
func (c conn) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	args, err := values(args)
	if err != nil {
		return nil, err
	}
	return c.Conn.ExecContext(ctx, numbered(query), args...)
}

// values has each argument make its value. Left to itself the driver would take a
// digest for an array of numbers.
func values(args []any) ([]any, error) {
	out := make([]any, len(args))
	for i, arg := range args {
		out[i] = arg
		if v, ok := arg.(driver.Valuer); ok {
			var err error
			if out[i], err = v.Value(); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// numbered makes $1 of ? and of ?1.
func numbered(query string) string {
	var b strings.Builder
	n := 0
	for i := range len(query) {
		if query[i] != '?' {
			b.WriteByte(query[i])
			continue
		}
		b.WriteByte('$')
		if i+1 == len(query) || query[i+1] < '0' || query[i+1] > '9' {
			n++
			b.WriteString(strconv.Itoa(n))
		}
	}
	return b.String()
}
