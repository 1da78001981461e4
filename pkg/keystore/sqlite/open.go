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

// schema has its version in PRAGMA user_version. Its lock is the writer's.
var schema = sqlstore.Schema{Steps: migrations, Version: schemaVersion, SetVersion: setSchemaVersion}

// applicationID is what the first migration marks our files with.
const applicationID = 0x70686b79

// Errors of a file that SQLite can read and we cannot use.
var (
	errForeign = errors.New("it is a database of another program")
	errNoWAL   = errors.New("SQLite cannot use a write-ahead log there (a network file system?)")
)

// place returns path made absolute, where a file that can be a database now stands.
func place(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("database %s: %w", path, err)
	}
	dir := filepath.Dir(abs)
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("database %s: the folder %s does not exist", abs, dir)
	} else if err != nil {
		return "", fmt.Errorf("database %s: its folder: %w", abs, err)
	} else if !info.IsDir() {
		return "", fmt.Errorf("database %s: %s is not a folder", abs, dir)
	}
	if info, err := os.Stat(abs); err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("database %s: it is not a regular file", abs)
	}
	// SQLite would make it readable by all, and gives the log beside it the same mode.
	// One that exists is not opened here: closing it would drop SQLite's locks on it
	// that this process may hold.
	f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return abs, nil
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("database %s: it does not exist and the folder %s is not writable", abs, dir)
	case err != nil:
		return "", fmt.Errorf("database %s: it cannot be made: %w", abs, err)
	}
	return abs, f.Close()
}

// explain tells people what is wrong with the database.
func explain(path string, err error) error {
	var engine *sqlite.Error
	if !errors.As(err, &engine) {
		return fmt.Errorf("database %s: %w", path, err)
	}
	what := "it cannot be opened"
	switch engine.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB:
		what = "it is not an SQLite database"
	case sqlite3.SQLITE_CORRUPT:
		what = "it is damaged: restore a backup"
	case sqlite3.SQLITE_BUSY:
		return fmt.Errorf("database %s: %w: it is locked by another process (%w)", path, keystore.ErrUnreachable, err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		what = "it is not writable"
	case sqlite3.SQLITE_CANTOPEN:
		what = "it, or the files that SQLite keeps beside it, cannot be opened for writing"
	case sqlite3.SQLITE_FULL:
		what = "the disk is full"
	}
	return fmt.Errorf("database %s: %s (%w)", path, what, err)
}

func writerDSN(path string, busy time.Duration) string {
	return dsn(path, busy, url.Values{
		"_txlock":       {"immediate"}, // a lock taken half-way through could not wait
		"_synchronous":  {"FULL"},
		"_foreign_keys": {"on"},
	})
}

func readerDSN(path string, busy time.Duration) string {
	return dsn(path, busy, url.Values{"_query_only": {"on"}})
}

func dsn(path string, busy time.Duration, q url.Values) string {
	q.Set("_busy_timeout", strconv.FormatInt(busy.Milliseconds(), 10))
	q.Set("_pragma", "temp_store(memory)") // no folder but the database's need be writable
	return (&url.URL{Scheme: "file", Path: path, OmitHost: true, RawQuery: q.Encode()}).String()
}

// useWAL switches the file over, once for its life. SQLite does not wait by itself
// for another process that is at the same.
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
		return 0, errForeign
	}
	// In a read-only file the transaction began all the same; only a write tells.
	return version, setSchemaVersion(ctx, tx, version)
}

func setSchemaVersion(ctx context.Context, tx *sql.Tx, version int) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
	return err
}
