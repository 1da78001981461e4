package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// migrations hold one file for each step of the schema, in order: the n-th takes
// it to version n. A published one is never edited.
//
//go:embed migrations/*.sql
var migrations embed.FS

const (
	connectTimeout = 3 * time.Second
	leastPool      = 10
	// migrationLock is the advisory lock under which one process at a time migrates.
	migrationLock = 0x70686b79
)

var errReadOnly = errors.New("it takes no writes: a standby, or read-only")

type newerError struct{ found, known int }

func (e newerError) Error() string {
	return fmt.Sprintf("its schema is version %d and this program knows up to %d: run a newer program, or restore a backup from before the upgrade",
		e.found, e.known)
}

// configure reads the URL. Where it names several hosts, the one that takes writes is
// used.
func configure(url string, password func() credential.Secret) (*pgxpool.Config, error) {
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
	return fmt.Errorf("database %s at %s: %s", c.Database, c.Host, oneLine)
}

// migrate brings the schema up to the newest version, each step in a transaction.
func migrate(ctx context.Context, db *sql.DB) error {
	steps, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	for done := false; !done; {
		if done, err = migrateOne(ctx, db, steps); err != nil {
			return err
		}
	}
	return nil
}

// migrateOne looks at the version under a lock, because another process may be at
// the same work, and takes the schema one step further.
func migrateOne(ctx context.Context, db *sql.DB, steps []string) (done bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }() // of no effect after the commit
	if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS phantom_schema (version integer NOT NULL)"); err != nil {
		return false, err
	}
	var version int
	if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM phantom_schema").Scan(&version); err != nil {
		return false, err
	}
	switch {
	case version > len(steps):
		return false, newerError{found: version, known: len(steps)}
	case version == len(steps):
		return true, nil
	}
	script, err := migrations.ReadFile(steps[version])
	if err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, string(script)); err != nil {
		return false, fmt.Errorf("migration %s (is it a database of our own?): %w", path.Base(steps[version]), err)
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO phantom_schema VALUES ($1)", version+1); err != nil {
		return false, err
	}
	return false, tx.Commit()
}
