package postgres

import (
	"cmp"
	"context"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// querier is a connection, a transaction or a pool.
type querier interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

// conn runs queries with the placeholders and arguments of sqlstore.
type conn struct{ querier }

// Query implements sqlstore.Querier.
func (c conn) Query(ctx context.Context, query string, args ...any) (sqlstore.Rows, error) {
	args, err := values(args)
	if err != nil {
		return nil, err
	}
	found, err := c.querier.Query(ctx, numbered(query), args...)
	if err != nil {
		return nil, err
	}
	return readFirst(found, nil)
}

// rows has read its first row, because the error of a query comes with it.
type rows struct {
	pgx.Rows
	read, more bool         // the first row has been read, and Next has not returned more yet
	after      func() error // closes what the rows come from; nil: nothing
}

func readFirst(found pgx.Rows, after func() error) (sqlstore.Rows, error) {
	r := &rows{Rows: found, read: true, after: after}
	if r.more = found.Next(); r.more || found.Err() == nil {
		return r, nil
	}
	return nil, r.Close()
}

// Next implements sqlstore.Rows.
func (r *rows) Next() bool {
	if r.read {
		r.read = false
		return r.more
	}
	return r.Rows.Next()
}

// Close implements sqlstore.Rows.
func (r *rows) Close() error {
	r.Rows.Close()
	err := r.Err()
	if r.after != nil {
		err = cmp.Or(err, r.after())
	}
	return err
}

// retrying repeats a read once if its connection is dead.
type retrying struct{ conn }

// Query implements sqlstore.Querier.
func (r retrying) Query(ctx context.Context, query string, args ...any) (sqlstore.Rows, error) {
	found, err := r.conn.Query(ctx, query, args...)
	if mayRetry(ctx, err) {
		return r.conn.Query(ctx, query, args...)
	}
	return found, err
}

// lockNotAvailable is the SQLSTATE of a wait that lock_timeout ended.
const lockNotAvailable = "55P03"

// mayRetry reports whether a call that has changed nothing may run again on another connection: its connection is dead, or
// nothing was sent on it, or it waited for the head's lock so long that the connection may be dead.
func mayRetry(ctx context.Context, err error) bool {
	var engine *pgconn.PgError
	var connecting *pgconn.ConnectError
	switch {
	case err == nil || ctx.Err() != nil || errors.As(err, &connecting):
		return false
	case errors.As(err, &engine):
		return engine.Code == lockNotAvailable
	}
	return errors.Is(err, errSilent) || pgconn.SafeToRetry(err)
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

// DecodeDatabaseSQLValue implements pgtype.Codec. It is for a sql.Scanner.
func (c byteaCodec) DecodeDatabaseSQLValue(m *pgtype.Map, oid uint32, format int16, src []byte) (driver.Value, error) {
	if format != pgtype.TextFormatCode {
		return c.ByteaCodec.DecodeDatabaseSQLValue(m, oid, format, src)
	}
	b, err := decodeBytea(src)
	if b == nil {
		return nil, err
	}
	return b, err
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
