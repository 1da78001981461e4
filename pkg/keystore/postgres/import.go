package postgres

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// uniqueViolation is the SQLSTATE of a row that a unique index refuses.
const uniqueViolation = "23505"

// writing is the conn of a transaction of Mutate, with the connection that it runs on: COPY
// is the driver's own and not database/sql's.
type writing struct {
	conn
	pinned *sql.Conn
}

// AmongTexts implements sqlstore.Bulk.
func (s *Store) AmongTexts(column string, texts []string) (condition string, arg any) {
	return column + " = ANY (?::text[])", texts
}

// AmongDigests implements sqlstore.Bulk. The digests go as one value: an array would be
// written and read as text.
func (s *Store) AmongDigests(column string, digests []credential.Digest) (condition string, arg any) {
	whole := make([]byte, 0, len(digests)*len(credential.Digest{}))
	for i := range digests {
		whole = append(whole, digests[i][:]...)
	}
	return column + ` = ANY (ARRAY(SELECT substring(whole FROM 32 * i + 1 FOR 32)
		FROM (SELECT ?::bytea AS whole) AS d, generate_series(0, length(whole) / 32 - 1) AS i))`, whole
}

// Load implements sqlstore.Bulk by COPY. It leaves nothing behind in the session, so a
// pooler may stand between.
func (s *Store) Load(t *sqlstore.Tx, table string, columns []string, n int, row func(i int) []any) error {
	on, ok := t.Conn.(writing)
	if !ok {
		return fmt.Errorf("load %s: %T is no transaction of Mutate", table, t.Conn)
	}
	return on.pinned.Raw(func(driver any) error {
		c, ok := driver.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("load %s: %T is another driver's", table, driver)
		}
		_, err := c.Conn().CopyFrom(t.Ctx, pgx.Identifier{table}, columns,
			pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(i), nil }))
		return err
	})
}

// Duplicate implements sqlstore.Bulk.
func (s *Store) Duplicate(err error) bool {
	var engine *pgconn.PgError
	return errors.As(err, &engine) && engine.Code == uniqueViolation
}
