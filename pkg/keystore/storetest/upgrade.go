package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// RolledBefore are statements that fill a database of schema version 1 with rolls, which had
// no column then: a was rolled to b and b to c; d was rolled twice, to e and f; g never.
func RolledBefore() []string {
	statements := []string{"INSERT INTO accounts (id, name, created_at, revision) VALUES ('acc_1', 'Ann', 1, 1)"}
	for i, id := range strings.Split("abcdefg", "") {
		statements = append(statements, fmt.Sprintf(
			"INSERT INTO keys (id, account, digest, label, hint, scopes, created_at, created_by, revision) SELECT '%s', seq, %s, 'x', '', '', 1, 'operator:x', %d FROM accounts",
			id, "DIGEST("+strings.Repeat(fmt.Sprintf("%02x", i), len(credential.Digest{}))+")", i+1))
	}
	for _, roll := range []string{"ab", "bc", "de", "df"} {
		statements = append(statements, fmt.Sprintf(
			`INSERT INTO events (at, actor, action, account, key, detail) VALUES (1, 'operator:x', 'key.roll', 'acc_1', '%s', '{"successor":"%s"}')`, roll[:1], roll[1:]))
	}
	return statements
}

// HasRolledBefore checks what became of RolledBefore in a newer schema.
func HasRolledBefore(t *testing.T, s keystore.Store) {
	t.Helper()
	list, _, err := s.Keys(t.Context(), "acc_1", keystore.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range list {
		got = append(got, strings.Join([]string{k.ID, k.ReplacedBy, k.Chain}, ","))
	}
	if want := "a,b,a b,c,a c,,a d,f,d e,,d f,,d g,,"; strings.Join(got, " ") != want {
		t.Errorf("keys, successors, chains are %s, want %s", strings.Join(got, " "), want)
	}
}
