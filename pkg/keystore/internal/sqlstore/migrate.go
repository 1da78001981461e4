package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Schema creates an engine's tables and brings them up to date.
type Schema struct {
	// Steps has migrations/*.sql, one file for each step. File names begin with the number of the step from 0001. Step n
	// brings the schema to version n. A published step is never edited.
	Steps fs.FS
	// Version locks the schema against migrations of other processes and returns its version, 0 for an empty database. It
	// fails if the tables belong to another program, or the database cannot be written.
	Version func(ctx context.Context, tx *sql.Tx) (int, error)
	// SetVersion stores the version.
	SetVersion func(ctx context.Context, tx *sql.Tx, version int) error
}

// Migrate brings the schema to the newest version, each step in a transaction.
func (s Schema) Migrate(ctx context.Context, db *sql.DB) error {
	steps, err := fs.Glob(s.Steps, "migrations/*.sql")
	if err != nil {
		return err
	}
	for i, step := range steps {
		if number := fmt.Sprintf("%04d", i+1); !strings.HasPrefix(path.Base(step), number+"_") {
			return fmt.Errorf("migration %s is invalid: must be number %s", path.Base(step), number)
		}
	}
	for done := false; !done; {
		if done, err = s.migrateOne(ctx, db, steps); err != nil {
			return err
		}
	}
	return nil
}

// migrateOne applies one step. It reads the version under the lock, because another process may migrate at the same time.
func (s Schema) migrateOne(ctx context.Context, db *sql.DB, steps []string) (done bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }() // no effect after the commit
	version, err := s.Version(ctx, tx)
	switch {
	case err != nil:
		return false, err
	case version > len(steps):
		return false, fmt.Errorf("schema version %d is invalid: must be at most %d: run a newer program, or restore a backup from before the upgrade",
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
