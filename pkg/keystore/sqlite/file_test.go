package sqlite

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// When a file of an open database is deleted or replaced, writes fail, reads continue, and one error is logged. When the file
// is back, writes succeed.
func TestWritesFailWithoutTheFile(t *testing.T) {
	for name, c := range map[string]struct{ suffix, replaces string }{
		"deleted":             {"", ""},
		"replaced by a copy":  {"", "copy"},
		"the log deleted":     {"-wal", ""},
		"the log replaced":    {"-wal", "copy"},
		"the index deleted":   {"-shm", ""},
		"by another database": {"", "other"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "keys.db")
			core, logs := observer.New(zap.InfoLevel)
			s := mustOpen(t, path, Options{Log: zap.New(core)})
			if _, err := s.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
				t.Fatal(err)
			}
			head, err := s.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			putAway(t, path+c.suffix, dir, c.replaces)
			for i := range 3 {
				if err := mint(t.Context(), s, "key_1"); err == nil || typed(err) {
					t.Fatalf("a mint: %v", err)
				}
				p := keystore.Poll{Sidecar: "s", Epoch: head.Epoch, Revision: 1, Lease: 1}
				if err := recordPoll(t.Context(), s, p); !errors.Is(err, errDeleted) {
					t.Fatalf("a poll: %v", err)
				}
				if err := s.Ping(t.Context()); !errors.Is(err, errDeleted) {
					t.Fatalf("a ping: %v", err)
				}
				if _, err := s.Account(t.Context(), "acc"); err != nil {
					t.Fatalf("a read: %v", err)
				}
				if lines := logs.FilterMessageSnippet("database file deleted").Len(); lines != 1 || logs.Len() != 1 {
					t.Fatalf("%d of %d lines after %d rounds", lines, logs.Len(), i+1)
				}
			}
			if err := os.Rename(filepath.Join(dir, "away"), path+c.suffix); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.Ping(t.Context()), mint(t.Context(), s, "key_1")); err != nil {
				t.Fatal(err)
			}
			whole(t, s)
		})
	}
}

// putAway moves the file away, and replaces it by nothing, a copy or another database.
func putAway(t *testing.T, path, dir, replaces string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	switch replaces {
	case "copy":
		err = os.WriteFile(path, raw, 0o600)
	case "other":
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A commit into a file that was deleted meanwhile is not acknowledged.
func TestCommitWithoutTheFileIsNotAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := mustOpen(t, path, Options{})
	_, err := sqlstore.Mutate(t.Context(), s, "delete", "operator:test", func(t *sqlstore.Tx) (struct{}, error) {
		t.Exec("UPDATE head SET revision = revision")
		return struct{}{}, os.Remove(path)
	})
	if !errors.Is(err, errDeleted) || !strings.Contains(err.Error(), "unknown outcome") {
		t.Errorf("got %v", err)
	}
}

// A changed symbolic link counts as a replaced file.
func TestWritesFailWhenTheLinkChanges(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink("keys.db", link); err != nil {
		t.Fatal(err)
	}
	mustClose(t, newClocks().open(t, filepath.Join(dir, "keys.db")))
	s := mustOpen(t, link, Options{})
	if _, err := s.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, newClocks().open(t, filepath.Join(dir, "restored.db")))
	if err := errors.Join(os.Remove(link), os.Symlink("restored.db", link)); err != nil {
		t.Fatal(err)
	}
	if err := mint(t.Context(), s, "key_1"); !errors.Is(err, errDeleted) {
		t.Errorf("got %v", err)
	}
}
