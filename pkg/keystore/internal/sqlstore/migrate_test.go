package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"testing"
	"testing/fstest"

	"golang.org/x/sync/errgroup"
	_ "modernc.org/sqlite" // a real database

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

var errOtherProgram = errors.New("database of another program")

// schemaOf is a schema with its version in the header of the file.
func schemaOf(steps map[string]string) sqlstore.Schema {
	files := fstest.MapFS{}
	for name, script := range steps {
		files["migrations/"+name] = &fstest.MapFile{Data: []byte(script)}
	}
	return sqlstore.Schema{
		Steps: files,
		Version: func(ctx context.Context, tx *sql.Tx) (version int, err error) {
			var other bool
			err = tx.QueryRowContext(ctx, "SELECT user_version, EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'theirs') FROM pragma_user_version").Scan(&version, &other)
			if other {
				err = errOtherProgram
			}
			return version, err
		},
		SetVersion: func(ctx context.Context, tx *sql.Tx, version int) error {
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
			return err
		},
	}
}

func database(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_busy_timeout=20000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// found returns the version and the tables of a database.
func found(t *testing.T, db *sql.DB) string {
	t.Helper()
	var version int
	var tables sql.NullString
	if err := db.QueryRowContext(t.Context(), `SELECT user_version, (SELECT group_concat(name, ' ' ORDER BY name) FROM sqlite_schema)
		FROM pragma_user_version`).Scan(&version, &tables); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d: %s", version, tables.String)
}

func TestMigrate(t *testing.T) {
	one, two := "CREATE TABLE one (id)", "CREATE TABLE two (id); INSERT INTO one VALUES (2)"
	for _, tt := range []struct {
		name   string
		before string // statements before the migration
		steps  map[string]string
		refuse string // regular expression; "" if it succeeds
		after  string
	}{
		{"empty", "", map[string]string{"0001_a.sql": one, "0002_b.sql": two}, "", "2: one two"},
		{"one step behind", "CREATE TABLE one (id); PRAGMA user_version = 1", map[string]string{"0001_a.sql": one, "0002_b.sql": two}, "", "2: one two"},
		{"up to date", "PRAGMA user_version = 2", map[string]string{"0001_a.sql": one, "0002_b.sql": two}, "", "2: "},
		{
			"newer schema", "PRAGMA user_version = 3",
			map[string]string{"0001_a.sql": one, "0002_b.sql": two},
			`^schema version 3 is invalid: must be at most 2: run a newer program, or restore a backup from before the upgrade$`, "3: ",
		},
		{"database of another program", "CREATE TABLE theirs (id)", map[string]string{"0001_a.sql": one}, `^database of another program$`, "0: theirs"},
		{
			"a gap", "CREATE TABLE one (id); PRAGMA user_version = 1",
			map[string]string{"0001_a.sql": one, "0003_c.sql": two},
			`^migration 0003_c.sql is invalid: must be number 0002$`, "1: one",
		},
		{"repeated number", "", map[string]string{"0001_a.sql": one, "0001_b.sql": two}, `^migration 0001_b.sql is invalid: must be number 0002$`, "0: "},
		{"no first step", "", map[string]string{"0002_b.sql": two}, `^migration 0002_b.sql is invalid: must be number 0001$`, "0: "},
		{"no number", "", map[string]string{"0001_a.sql": one, "more.sql": two}, `^migration more.sql is invalid: must be number 0002$`, "0: "},
		{
			"failing step is rolled back", "",
			map[string]string{"0001_a.sql": one, "0002_b.sql": "CREATE TABLE two (id); CREATE TABLE one (id)"},
			`^migration 0002_b.sql: .*table one already exists`, "1: one",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := database(t, filepath.Join(t.TempDir(), "keys.db"))
			if _, err := db.ExecContext(t.Context(), tt.before); err != nil {
				t.Fatal(err)
			}
			err := schemaOf(tt.steps).Migrate(t.Context(), db)
			switch {
			case tt.refuse == "" && err != nil:
				t.Error(err)
			case tt.refuse != "" && (err == nil || !regexp.MustCompile(tt.refuse).MatchString(err.Error())):
				t.Errorf("found %v, want %s", err, tt.refuse)
			}
			if got := found(t, db); got != tt.after {
				t.Errorf("found %q, want %q", got, tt.after)
			}
		})
	}
}

// Each step is applied once if several processes start together.
func TestConcurrentMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	steps := map[string]string{}
	want := "9:"
	for i := range 9 {
		steps[fmt.Sprintf("%04d_step.sql", i+1)] = fmt.Sprintf("CREATE TABLE t%d (id)", i)
		want += fmt.Sprintf(" t%d", i)
	}
	var all errgroup.Group
	for range 4 {
		db := database(t, path)
		all.Go(func() error { return schemaOf(steps).Migrate(t.Context(), db) })
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	if got := found(t, database(t, path)); got != want {
		t.Errorf("found %q, want %q", got, want)
	}
}
