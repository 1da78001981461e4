package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema has its version in PRAGMA user_version. SQLite's write lock protects it.
var schema = sqlstore.Schema{Steps: migrations, Version: schemaVersion, SetVersion: setSchemaVersion}

// applicationID is the application_id that the first migration gives a file.
const applicationID = 0x70686b79

// Errors of files that SQLite can read and keyd cannot use.
var (
	errOtherProgram = errors.New("database of another program")
	errNoWAL        = errors.New("SQLite cannot use a write-ahead log there (a network file system?)")
)

// place returns the absolute path, and creates the file if there is none.
func place(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("database %s: %w", path, err)
	}
	dir := filepath.Dir(abs)
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("database %s: directory %s does not exist", abs, dir)
	} else if err != nil {
		return "", fmt.Errorf("database %s: stat directory: %w", abs, err)
	} else if !info.IsDir() {
		return "", fmt.Errorf("database %s: %s is not a directory", abs, dir)
	}
	if info, err := os.Stat(abs); err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("database %s: not a regular file", abs)
	}
	// SQLite would create it readable by all, and gives the log beside it the same mode. A file that exists is not opened
	// here: closing it would release SQLite's locks of this process on it.
	f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return abs, nil
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("database %s: does not exist and directory %s is not writable", abs, dir)
	case err != nil:
		return "", fmt.Errorf("create database %s: %w", abs, err)
	}
	return abs, f.Close()
}

// explain adds the path and the meaning of SQLite's error code.
func explain(path string, err error) error {
	var engine *sqlite.Error
	if !errors.As(err, &engine) {
		return fmt.Errorf("database %s: %w", path, err)
	}
	what := "cannot be opened"
	switch engine.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB:
		what = "not an SQLite database"
	case sqlite3.SQLITE_CORRUPT:
		what = "damaged: restore a backup"
	case sqlite3.SQLITE_BUSY:
		return fmt.Errorf("database %s: %w: locked by another process (%w)", path, keystore.ErrUnreachable, err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		what = "not writable"
	case sqlite3.SQLITE_CANTOPEN:
		what = "the database, or a file of SQLite beside it, cannot be opened for writing"
	case sqlite3.SQLITE_FULL:
		what = "disk full"
	}
	return fmt.Errorf("database %s: %s (%w)", path, what, err)
}

func writerDSN(path string, busy time.Duration) string {
	return dsn(path, busy, url.Values{
		"_txlock":       {"immediate"}, // a lock taken later in the transaction could not wait
		"_synchronous":  {"FULL"},
		"_foreign_keys": {"on"},
	})
}

func readerDSN(path string, busy time.Duration) string {
	return dsn(path, busy, url.Values{"_query_only": {"on"}})
}

func dsn(path string, busy time.Duration, q url.Values) string {
	q.Set("_busy_timeout", strconv.FormatInt(busy.Milliseconds(), 10))
	q.Set("_pragma", "temp_store(memory)") // only the directory of the database must be writable
	return (&url.URL{Scheme: "file", Path: path, OmitHost: true, RawQuery: q.Encode()}).String()
}

// useWAL switches the file to a write-ahead log, for good. SQLite does not wait for another process that does the same, so
// this retries.
func useWAL(ctx context.Context, db *sql.DB, busy time.Duration) error {
	for until := time.Now().Add(busy); ; {
		var mode string
		err := db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode)
		var engine *sqlite.Error
		switch {
		case err == nil && mode != "wal":
			return errNoWAL
		case !errors.As(err, &engine) || engine.Code()&0xff != sqlite3.SQLITE_BUSY || time.Now().After(until):
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// schemaVersion returns 0 for an empty file.
func schemaVersion(ctx context.Context, tx *sql.Tx) (int, error) {
	var application, version, objects int
	err := tx.QueryRowContext(ctx, `SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
		FROM pragma_application_id, pragma_user_version`).Scan(&application, &version, &objects)
	if err != nil {
		return 0, err
	}
	empty := application == 0 && version == 0 && objects == 0
	if application != applicationID && !empty {
		return 0, errOtherProgram
	}
	// A transaction begins in a read-only file too; only a write fails.
	return version, setSchemaVersion(ctx, tx, version)
}

func setSchemaVersion(ctx context.Context, tx *sql.Tx, version int) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
	return err
}
