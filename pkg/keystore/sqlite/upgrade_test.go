package sqlite

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/storetest"
)

// The upgrade from the first schema derives chains from the audit.
func TestUpgradeFindsChains(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	first, err := fs.ReadFile(migrations, "migrations/0001_first.sql")
	if err != nil {
		t.Fatal(err)
	}
	statements := []string{string(first), "PRAGMA user_version = 1"}
	for _, q := range storetest.RolledBefore() {
		statements = append(statements, regexp.MustCompile(`DIGEST\((\w+)\)`).ReplaceAllString(q, "x'$1'"))
	}
	if err := otherProgram(t, path, statements...).Close(); err != nil {
		t.Fatal(err)
	}
	storetest.CheckRolledBefore(t, mustOpen(t, path, Options{}))
}
