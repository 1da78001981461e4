package postgres_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/storetest"
)

// The upgrade from the first schema derives chains from the audit.
func TestUpgradeFindsChains(t *testing.T) {
	url := database(t, server)
	first, err := os.ReadFile("migrations/0001_first.sql")
	if err != nil {
		t.Fatal(err)
	}
	statements := []string{string(first), "CREATE TABLE phantom_schema (version integer NOT NULL)", "INSERT INTO phantom_schema VALUES (1)"}
	for _, q := range storetest.RolledBefore() {
		statements = append(statements, regexp.MustCompile(`DIGEST\((\w+)\)`).ReplaceAllString(q, `'\x$1'`))
	}
	execute(t, url, statements...)
	s := open(t, url, postgres.Options{})
	defer mustClose(t, s)
	storetest.CheckRolledBefore(t, s)
}
