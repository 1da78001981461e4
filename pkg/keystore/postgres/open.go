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
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema has its version in a table.
var schema = sqlstore.Schema{Steps: migrations, Version: schemaVersion, SetVersion: setSchemaVersion}

const (
	// connectTimeout is how long connecting to one host may take. Smaller fails on a slow network; larger delays the attempt at
	// the next host.
	connectTimeout = 3 * time.Second
	// leastPool is the least size of the pool. Smaller lets reads wait for each other; larger uses more of the server's
	// connections.
	leastPool = 10
	// migrationLock is the advisory lock that a process holds while it migrates.
	migrationLock = 0x70686b79
	// duplicateTable is the SQLSTATE of a table or index that exists already.
	duplicateTable = "42P07"
)

var errReadOnly = errors.New("takes no writes: a standby, or read-only")

// sessionParams are the settings that the statements and pgx rely on. They override the role's defaults. Poolers pass them on.
var sessionParams = map[string]string{
	"client_encoding":             "UTF8",
	"datestyle":                   "ISO, MDY",
	"standard_conforming_strings": "on",
}

// configure parses the URL. If it names several hosts, the pool uses the one that takes writes.
func configure(url string, password func() credential.Secret, made *connections) (*pgxpool.Config, error) {
	conf, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err) // pgx omits passwords
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
		noteMade(c)
		// For speed only: a pooler may give each transaction another session.
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

// explain adds the database and its host.
func explain(conf *pgxpool.Config, err error) error {
	c := conf.ConnConfig
	oneLine := strings.Join(strings.Fields(err.Error()), " ") // pgx has a line for each host
	if unreachable(err) {
		return fmt.Errorf("database %s at %s: %w: %s", c.Database, c.Host, keystore.ErrUnreachable, oneLine)
	}
	return fmt.Errorf("database %s at %s: %s", c.Database, c.Host, oneLine)
}

// refusals are the prefixes of the SQLSTATEs of a refused login: invalid authorization, a database that does not exist, a
// missing privilege (PostgreSQL, appendix A).
var refusals = []string{"28", "3D", "42501"}

// outages are the prefixes of the SQLSTATEs of a server that may answer later: connection exceptions, insufficient resources,
// operator intervention such as a shutdown.
var outages = []string{"08", "53", "57"}

func hasPrefix(code string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(code, p) })
}

// unreachable reports whether the error may go away without a change of keyd's configuration.
func unreachable(err error) bool {
	var engine *pgconn.PgError
	var connecting *pgconn.ConnectError
	var network net.Error
	switch answered := errors.As(err, &engine); {
	case errors.As(err, &connecting):
		return !answered || !hasPrefix(engine.Code, refusals)
	case answered:
		return hasPrefix(engine.Code, outages)
	}
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.Timeout(err)
}

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	db := stdlib.OpenDBFromPool(pool)
	err := schema.Migrate(ctx, db)
	_ = db.Close() // its connections are the pool's
	var engine *pgconn.PgError
	if errors.As(err, &engine) && engine.Code == duplicateTable {
		return fmt.Errorf("%w: database of another program?", err)
	}
	return err
}

func schemaVersion(ctx context.Context, tx *sql.Tx) (version int, err error) {
	// The next statements must see what other processes committed while this one waited for the lock, and the role's default
	// must not end that wait.
	for _, set := range []string{"SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET LOCAL lock_timeout = 0", "SET LOCAL statement_timeout = 0"} {
		if _, err := tx.ExecContext(ctx, set); err != nil {
			return 0, err
		}
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
