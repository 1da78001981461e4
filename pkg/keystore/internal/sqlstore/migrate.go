package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Schema is how an engine's tables come about.
type Schema struct {
	// Steps holds migrations/*.sql, one file for each step, named by its number from
	// 0001: the n-th takes the schema to version n. A published one is never edited.
	Steps fs.FS
	// Version takes the lock under which one process at a time migrates, and tells how
	// far the schema has come: 0 for an empty database. It fails where another program's
	// tables stand, or nothing can be written.
	Version func(ctx context.Context, tx *sql.Tx) (int, error)
	// SetVersion writes the version down.
	SetVersion func(ctx context.Context, tx *sql.Tx, version int) error
}

// Migrate brings the schema up to the newest version, each step in a transaction.
func (s Schema) Migrate(ctx context.Context, db *sql.DB) error {
	steps, err := fs.Glob(s.Steps, "migrations/*.sql")
	if err != nil {
		return err
	}
	for i, step := range steps {
		if number := fmt.Sprintf("%04d", i+1); !strings.HasPrefix(path.Base(step), number+"_") {
			return fmt.Errorf("migration %s: the number %s is due", path.Base(step), number)
		}
	}
	for done := false; !done; {
		if done, err = s.migrateOne(ctx, db, steps); err != nil {
			return err
		}
	}
	return nil
}

// migrateOne looks at the version under the lock, because another process may be at the
// same work, and takes the schema one step further.
func (s Schema) migrateOne(ctx context.Context, db *sql.DB, steps []string) (done bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }() // of no effect after the commit
	version, err := s.Version(ctx, tx)
	switch {
	case err != nil:
		return false, err
	case version > len(steps):
		return false, fmt.Errorf("its schema is version %d and this program knows up to %d: run a newer program, or restore a backup from before the upgrade",
			version, len(steps))
	case version == len(steps):
		return true, nil
	}
	script, err := fs.ReadFile(s.Steps, steps[version])
	if err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, string(script)); err != nil {
		return false, fmt.Errorf("migration %s: %w", path.Base(steps[version]), err)
	}
	if err := s.SetVersion(ctx, tx, version+1); err != nil {
		return false, err
	}
	return false, tx.Commit()
}
