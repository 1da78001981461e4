package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
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

// retrying runs reads once more if the connection that they got is dead.
type retrying struct{ conn }

// QueryContext implements sqlstore.Querier.
func (r retrying) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	rows, err := r.conn.QueryContext(ctx, query, args...)
	if mayRetry(ctx, err) {
		return r.conn.QueryContext(ctx, query, args...)
	}
	return rows, err
}

// QueryRowContext implements sqlstore.Querier.
func (r retrying) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	row := r.conn.QueryRowContext(ctx, query, args...)
	if mayRetry(ctx, row.Err()) {
		return r.conn.QueryRowContext(ctx, query, args...)
	}
	return row
}

// lockNotAvailable is the SQLSTATE of a wait that lock_timeout has ended.
const lockNotAvailable = "55P03"

// mayRetry reports whether what failed before it changed anything may be done on another connection:
// the one that it got is dead, or the wait for the head's lock was so long that the connection
// might have been.
func mayRetry(ctx context.Context, err error) bool {
	var engine *pgconn.PgError
	return err != nil && ctx.Err() == nil && (errors.Is(err, errSilent) || errors.As(err, &engine) && engine.Code == lockNotAvailable)
}

// milliseconds is a setting of the server.
func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

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
