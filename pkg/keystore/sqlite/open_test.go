package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func mustOpen(t *testing.T, path string, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// otherProgram opens the file as another program does.
func otherProgram(t *testing.T, path string, statements ...string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	for _, q := range statements {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	return db
}

// create creates a store at path and closes it.
func create(t *testing.T, path string) {
	t.Helper()
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name string
		path string // in the test's directory
		set  func(t *testing.T, path string)
		want string // regular expression
	}{
		{"no directory", "no/keys.db", nil, `directory .*/no does not exist$`},
		{"a file as directory", "f/keys.db", func(t *testing.T, path string) { write(t, filepath.Dir(path), "") }, `/f is not a directory$`},
		{"a directory", "d", func(_ *testing.T, path string) { _ = os.Mkdir(path, 0o700) }, `not a regular file$`},
		{"a text file", "keys.db", func(t *testing.T, path string) { write(t, path, strings.Repeat("no database\n", 500)) }, `not an SQLite database`},
		{"database of another program", "keys.db", func(t *testing.T, path string) {
			otherProgram(t, path, "CREATE TABLE keys (id)")
		}, `: database of another program$`},
		{"application_id of another program", "keys.db", func(t *testing.T, path string) {
			otherProgram(t, path, "PRAGMA application_id = 7")
		}, `: database of another program$`},
		{"newer schema", "keys.db", func(t *testing.T, path string) {
			create(t, path)
			otherProgram(t, path, "PRAGMA user_version = 99")
		}, `schema version 99 is invalid: must be at most \d+: run a newer program`},
		{"locked", "keys.db", func(t *testing.T, path string) {
			create(t, path)
			otherProgram(t, path, "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "PRAGMA user_version = 1")
		}, `cannot be reached: locked by another process`},
		{"truncated", "keys.db", func(t *testing.T, path string) {
			create(t, path)
			if err := os.Truncate(path, 5000); err != nil {
				t.Fatal(err)
			}
		}, `damaged: restore a backup`},
		{"read-only file", "keys.db", func(t *testing.T, path string) {
			create(t, path)
			asOther(t, path, 0o444, 0o777)
		}, `not writable|cannot be opened for writing`},
		{"read-only directory", "keys.db", func(t *testing.T, path string) {
			asOther(t, path, 0, 0o555)
		}, `does not exist and directory .* is not writable$`},
		{"read-only directory with a file", "keys.db", func(t *testing.T, path string) {
			create(t, path)
			asOther(t, path, 0o666, 0o555)
		}, `cannot be opened for writing|not writable`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), tt.path)
			if tt.set != nil {
				tt.set(t, path)
			}
			s, err := Open(t.Context(), path, Options{BusyTimeout: 10 * time.Millisecond})
			if err == nil {
				_ = s.Close()
				t.Fatal("opened")
			}
			if errors.Is(err, keystore.ErrUnreachable) != (tt.name == "locked") {
				t.Errorf("unreachable: %v", err)
			}
			if msg := err.Error(); !strings.HasPrefix(msg, "database "+path+": ") || !regexp.MustCompile(tt.want).MatchString(msg) {
				t.Fatalf("got %q, want %q", msg, tt.want)
			}
		})
	}
}

// asOther sets the modes of the file and its directory, and removes root's rights over files from the test's thread.
func asOther(t *testing.T, path string, file, dir os.FileMode) {
	t.Helper()
	if file != 0 {
		if err := os.Chmod(path, file); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(path), dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755); err != nil { // the directory of t.TempDir
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if os.Geteuid() == 0 {
		if err := syscall.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if os.Geteuid() == 0 {
			_ = syscall.Setfsuid(0)
		}
		runtime.UnlockOSThread()
		_ = os.Chmod(filepath.Dir(path), 0o700)
	})
}

func TestOpenCreatesTheFile(t *testing.T) {
	for _, name := range []string{"keys.db", "with space", "a?b=c&_query_only=1", "100%25", "#1", "ünï", "file:x", `back\slash`} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			s := mustOpen(t, path, Options{})
			if err := s.Prune(t.Context(), time.Hour); err != nil {
				t.Fatal(err)
			}
			for _, suffix := range []string{"", "-wal", "-shm"} {
				info, err := os.Stat(path + suffix)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %v", info.Name(), info.Mode())
				}
			}
		})
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Open(ctx, filepath.Join(t.TempDir(), "keys.db"), Options{}); err == nil {
		_ = s.Close()
		t.Fatal("opened")
	}
}

// The settings that durability and the single writer depend on.
func TestPragmas(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "keys.db"), Options{})
	for _, tt := range []struct {
		db           *sql.DB
		pragma, want string
	}{
		{s.writer, "journal_mode", "wal"},
		{s.writer, "synchronous", "2"}, // FULL
		{s.writer, "foreign_keys", "1"},
		{s.writer, "query_only", "0"},
		{s.writer, "busy_timeout", "5000"},
		{s.writer, "temp_store", "2"}, // MEMORY
		{s.readers, "temp_store", "2"},
		{s.readers, "query_only", "1"},
		{s.readers, "busy_timeout", "5000"},
	} {
		var got string
		if err := tt.db.QueryRowContext(t.Context(), "PRAGMA "+tt.pragma).Scan(&got); err != nil || got != tt.want {
			t.Errorf("%s is %q, want %q: %v", tt.pragma, got, tt.want, err)
		}
	}
}
