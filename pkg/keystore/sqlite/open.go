package sqlite

import (
	"cmp"
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
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
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
	// SQLite would create it readable by all, and gives the log beside it the same mode. A file that exists is not opened
	// here: closing it would release SQLite's locks of this process on it.
	f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	dir := filepath.Dir(abs)
	switch {
	case errors.Is(err, fs.ErrExist):
		if info, err := os.Stat(abs); err == nil && !info.Mode().IsRegular() {
			return "", fmt.Errorf("database %s: not a regular file", abs)
		}
		return abs, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("database %s: directory %s does not exist", abs, dir)
	case errors.Is(err, syscall.ENOTDIR):
		return "", fmt.Errorf("database %s: %s is not a directory", abs, dir)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("database %s: does not exist and directory %s is not writable", abs, dir)
	case err != nil:
		return "", fmt.Errorf("create database %s: %w", abs, err)
	}
	return abs, f.Close()
}

// meanings explains SQLite's error codes.
var meanings = map[int]string{
	sqlite3.SQLITE_NOTADB:   "not an SQLite database",
	sqlite3.SQLITE_CORRUPT:  "damaged: restore a backup",
	sqlite3.SQLITE_READONLY: "not writable",
	sqlite3.SQLITE_PERM:     "not writable",
	sqlite3.SQLITE_CANTOPEN: "the database, or a file of SQLite beside it, cannot be opened for writing",
	sqlite3.SQLITE_FULL:     "disk full",
}

// explain adds the path and the meaning of SQLite's error code.
func explain(path string, err error) error {
	var engine *sqlite.Error
	if !errors.As(err, &engine) {
		return fmt.Errorf("database %s: %w", path, err)
	}
	code := engine.Code() & 0xff
	if code == sqlite3.SQLITE_BUSY {
		return fmt.Errorf("database %s: %w: locked by another process (%w)", path, keystore.ErrUnreachable, err)
	}
	return fmt.Errorf("database %s: %s (%w)", path, cmp.Or(meanings[code], "cannot be opened"), err)
}

// dsn names the file with options of the driver.
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
		case <-time.After(retryPause):
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

// retryPause is the time between two attempts to get a lock. Smaller uses more CPU while another process starts; larger delays
// the start by up to that time.
const retryPause = 5 * time.Millisecond

// lock takes an advisory lock (flock) on PATH.lock, a file that is never deleted. The lock is exclusive if no other process
// has the database open; share must then be called after the start. Else it is shared. The kernel releases the lock when
// the process ends, also by a kill. Programs that only read the database do not take it.
//
// So a new keyd can take over from a running one, and only a process that is alone corrects the times on record by a step
// of the clock.
func lock(ctx context.Context, path string, busy time.Duration) (f *os.File, alone bool, err error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, false, err
	}
	if f, err = os.OpenFile(target+".lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, false, fmt.Errorf("lock file cannot be opened for writing: %w", err)
	}
	for until := time.Now().Add(busy); ; { // another process has the exclusive lock during its start only
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return f, true, nil
		}
		if err = share(f); err == nil {
			return f, false, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(until) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%w: another keyd is starting on it (%w)", keystore.ErrUnreachable, err)
	}
	return nil, false, fmt.Errorf("lock %s: %w", f.Name(), err)
}

// share turns the lock into a shared one.
func share(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) }

// errDeleted: a restart would not find later writes.
var errDeleted = errors.New("the database file was deleted or replaced")

// files are the database and SQLite's log and index beside it, as they were opened. SQLite does not notice if one of them is
// deleted: it continues in the file that has no name any longer.
type files struct {
	log    *zap.Logger
	opened map[string]os.FileInfo // by path
	lost   atomic.Bool            // and logged
}

// openedFiles returns the files. Call it after SQLite has opened all of them.
func openedFiles(path string, log *zap.Logger) (*files, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	f := &files{log: log, opened: map[string]os.FileInfo{}}
	for _, name := range []string{path, target + "-wal", target + "-shm"} {
		if f.opened[name], err = os.Stat(name); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// check returns errDeleted if one of the paths is not the file that was opened. It logs this once.
func (f *files) check() error {
	for path, opened := range f.opened {
		now, err := os.Stat(path)
		if err == nil && os.SameFile(now, opened) {
			continue
		}
		if f.lost.CompareAndSwap(false, true) {
			f.log.Error("store: database file deleted or replaced: writes are refused until the original file is back",
				zap.String("file", path), zap.Error(err))
		}
		return fmt.Errorf("%w: %s", errDeleted, path)
	}
	if f.lost.CompareAndSwap(true, false) {
		f.log.Info("store: database file is back")
	}
	return nil
}
