package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema has its version in a table.
var schema = sqlstore.Schema{Steps: migrations, Version: schemaVersion, SetVersion: setSchemaVersion}

const (
	connectTimeout = 3 * time.Second
	leastPool      = 10
	// migrationLock is the advisory lock under which one process at a time migrates.
	migrationLock = 0x70686b79
	// duplicateTable is the SQLSTATE of a table, an index or the like that exists already.
	duplicateTable = "42P07"
)

var errReadOnly = errors.New("it takes no writes: a standby, or read-only")

// sessionParams are what our statements and the driver rely on, whatever the role's defaults are.
// Poolers let these through.
var sessionParams = map[string]string{
	"client_encoding":             "UTF8",
	"datestyle":                   "ISO, MDY",
	"standard_conforming_strings": "on",
}

// configure reads the URL. Where it names several hosts, the one that takes writes is
// used.
func configure(url string, password func() credential.Secret, made *connections) (*pgxpool.Config, error) {
	conf, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err) // pgx leaves passwords out
	}
	if !strings.Contains(url, "pool_max_conns") {
		conf.MaxConns = max(conf.MaxConns, leastPool)
	}
	c := conf.ConnConfig
	if !strings.Contains(url, "default_query_exec_mode") {
		c.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if !strings.Contains(url, "connect_timeout") {
		c.ConnectTimeout = connectTimeout
	}
	c.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn); err != nil {
			return fmt.Errorf("%w (%w)", errReadOnly, err)
		}
		return nil
	}
	for name, value := range sessionParams {
		c.RuntimeParams[name] = value
	}
	c.DialFunc = made.dial
	conf.ShouldPing = made.shouldPing
	conf.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		c.TypeMap().RegisterType(bytea)
		noteBirth(c)
		// For speed alone: a pooler may give each transaction another session.
		_, err := c.Exec(ctx, "SET jit = off")
		return err
	}
	conf.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		if password != nil {
			c.Password = password().Reveal()
		}
		return nil
	}
	return conf, nil
}

// explain tells people which database is meant and what is wrong with it.
func explain(conf *pgxpool.Config, err error) error {
	c := conf.ConnConfig
	oneLine := strings.Join(strings.Fields(err.Error()), " ") // pgx has a line for each host
	if unreachable(err) {
		return fmt.Errorf("database %s at %s: %w: %s", c.Database, c.Host, keystore.ErrUnreachable, oneLine)
	}
	return fmt.Errorf("database %s at %s: %s", c.Database, c.Host, oneLine)
}

// refusals are the beginnings of the SQLSTATEs by which a server refuses a login: an invalid
// authorization, a database that does not exist, a missing privilege (PostgreSQL, appendix A).
var refusals = []string{"28", "3D", "42501"}

// outages are the beginnings of the SQLSTATEs of a server that may answer later: connection
// exceptions, insufficient resources, operator intervention such as a shutdown.
var outages = []string{"08", "53", "57"}

// unreachable reports whether an error is one that goes away without a change of keyd's
// configuration.
func unreachable(err error) bool {
	var engine *pgconn.PgError
	has := func(beginnings []string) bool {
		return slices.ContainsFunc(beginnings, func(b string) bool { return strings.HasPrefix(engine.Code, b) })
	}
	var connecting *pgconn.ConnectError
	var network net.Error
	switch answered := errors.As(err, &engine); {
	case errors.As(err, &connecting):
		return !answered || !has(refusals)
	case answered:
		return has(outages)
	}
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.Timeout(err)
}

func migrate(ctx context.Context, db *sql.DB) error {
	err := schema.Migrate(ctx, db)
	var engine *pgconn.PgError
	if errors.As(err, &engine) && engine.Code == duplicateTable {
		return fmt.Errorf("%w: is it a database of another program?", err)
	}
	return err
}

func schemaVersion(ctx context.Context, tx *sql.Tx) (version int, err error) {
	// What another process has done while this one waited for the lock must be seen.
	if _, err := tx.ExecContext(ctx, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS phantom_schema (version integer NOT NULL)"); err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM phantom_schema").Scan(&version)
	return version, err
}

func setSchemaVersion(ctx context.Context, tx *sql.Tx, version int) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO phantom_schema VALUES ($1)", version)
	return err
}
