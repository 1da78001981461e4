package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// conn runs queries with the placeholders and arguments of sqlstore.
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
	} // else the driver returns the same error
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

// retrying repeats a read once if its connection is dead.
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

// lockNotAvailable is the SQLSTATE of a wait that lock_timeout ended.
const lockNotAvailable = "55P03"

// mayRetry reports whether a call that has changed nothing may run again on another connection: its connection is dead, or
// it waited for the head's lock so long that the connection may be.
func mayRetry(ctx context.Context, err error) bool {
	var engine *pgconn.PgError
	return err != nil && ctx.Err() == nil && (errors.Is(err, errSilent) || errors.As(err, &engine) && engine.Code == lockNotAvailable)
}

// milliseconds formats a setting of the server.
func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

// values converts arguments that are driver.Valuers. Otherwise pgx would write a digest as an array of numbers.
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

// numbered replaces ? and ?1 by $1.
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

// bytea reads the type bytea in both output formats of PostgreSQL (section 8.4, "Binary Data Types"). A role may have either
// as its default, and a pooler does not pass on a setting of the session.
var bytea = &pgtype.Type{Name: "bytea", OID: pgtype.ByteaOID, Codec: byteaCodec{}}

type byteaCodec struct{ pgtype.ByteaCodec }

// PlanScan implements pgtype.Codec.
func (c byteaCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*[]byte); ok && format == pgtype.TextFormatCode {
		return scanBytea{}
	}
	return c.ByteaCodec.PlanScan(m, oid, format, target)
}

type scanBytea struct{}

// Scan implements pgtype.ScanPlan.
func (scanBytea) Scan(src []byte, target any) (err error) {
	into := target.(*[]byte)
	*into, err = decodeBytea(src)
	return err
}

var errBytea = errors.New("bytea is invalid: must be in hex or escape format") // never the value

// decodeBytea returns nil for NULL.
func decodeBytea(src []byte) ([]byte, error) {
	if src == nil {
		return nil, nil
	}
	if len(src) >= 2 && src[0] == '\\' && src[1] == 'x' {
		out := make([]byte, hex.DecodedLen(len(src)-2))
		if _, err := hex.Decode(out, src[2:]); err != nil {
			return nil, errBytea
		}
		return out, nil
	}
	out := make([]byte, 0, len(src))
	for i := 0; i < len(src); i++ {
		switch {
		case src[i] != '\\':
			out = append(out, src[i])
		case i+1 < len(src) && src[i+1] == '\\':
			out = append(out, '\\')
			i++
		case i+3 < len(src):
			octal, err := strconv.ParseUint(string(src[i+1:i+4]), 8, 8)
			if err != nil {
				return nil, errBytea
			}
			out = append(out, byte(octal))
			i += 3
		default:
			return nil, errBytea
		}
	}
	return out, nil
}
