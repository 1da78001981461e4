package postgres_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

// peculiar are defaults of a role that change how values are read, written or stored.
var peculiar = []string{
	"bytea_output = 'escape'", "DateStyle = 'SQL, DMY'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Kathmandu'",
	"standard_conforming_strings = off", "client_encoding = 'LATIN1'", "extra_float_digits = -15", "default_transaction_isolation = 'serializable'",
	"synchronous_commit = off", "array_nulls = off", "transform_null_equals = on", "quote_all_identifiers = on", "backslash_quote = on",
	"lock_timeout = '1ms'", "xmloption = 'document'", "enable_indexscan = off", "default_transaction_deferrable = on",
}

// peculiarRole makes a role with these defaults.
func peculiarRole(t *testing.T) {
	t.Helper()
	statements := []string{"DROP ROLE IF EXISTS peculiar", "CREATE ROLE peculiar LOGIN SUPERUSER"}
	for _, setting := range peculiar {
		statements = append(statements, "ALTER ROLE peculiar SET "+setting)
	}
	for _, statement := range statements {
		if err := server.Exec(t.Context(), "postgres", statement); err != nil {
			t.Fatal(err)
		}
	}
}

// The store does not depend on the defaults of its role.
func TestRoleWithOtherDefaults(t *testing.T) {
	peculiarRole(t)
	runSuite(t, "peculiar")
}

// It does not depend on them behind a pooler either, which does not pass on most settings.
func TestRoleWithOtherDefaultsThroughPooler(t *testing.T) {
	t.Parallel()
	pooler, err := server.Pooler(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pooler.Remove() })
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range []string{"bytea_output = 'escape'", "client_encoding = 'LATIN1'", "standard_conforming_strings = off"} {
		if err := server.Exec(t.Context(), "postgres", "ALTER ROLE postgres IN DATABASE "+name+" SET "+setting); err != nil {
			t.Fatal(err)
		}
	}
	s := withAccount(t, pooler.URL(name))
	defer mustClose(t, s)
	k, err := mint(t.Context(), s, "key_1")
	if err != nil {
		t.Fatal(err)
	}
	_, facts, err := s.Resolve(t.Context(), []credential.Digest{k.Digest})
	if err != nil || !facts[0].Found {
		t.Fatalf("%+v, %v", facts, err)
	}
	if got, err := s.Key(t.Context(), "key_1"); err != nil || got.Digest != k.Digest {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.CreateAccount(t.Context(), "operator:test", "zoe", "Zoë"); err != nil {
		t.Fatal(err)
	}
	utf8 := "DO $$BEGIN ASSERT (SELECT octet_length(name) FROM accounts WHERE id = 'zoe') = 4; END$$"
	if err := server.Exec(t.Context(), name, utf8); err != nil {
		t.Errorf("a name is not in UTF-8: %v", err)
	}
}

// Both output formats of bytea are read.
func TestByteaFormats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		for _, form := range []func([]byte) []byte{escaped, postgres.HexBytea} {
			if got, err := postgres.DecodeBytea(form(want)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%q is read as %x, want %x: %v", form(want), got, want, err)
			}
		}
		_, _ = postgres.DecodeBytea(want) // must not panic
	})
	for _, bad := range []string{`\`, `\0`, `\01`, `\018`, `\400`, `\x0`, `\xzz`, `a\`, `\+12`, `\_1_`} {
		if got, err := postgres.DecodeBytea([]byte(bad)); err == nil {
			t.Errorf("%q is read as %x", bad, got)
		}
	}
	if got, err := postgres.DecodeBytea(nil); got != nil || err != nil {
		t.Errorf("NULL is read as %x, %v", got, err)
	}
}

// escaped is the escape format.
func escaped(b []byte) []byte {
	out := []byte{}
	for _, c := range b {
		switch {
		case c == '\\':
			out = append(out, '\\', '\\')
		case c < 0x20 || c > 0x7e:
			out = append(out, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		default:
			out = append(out, c)
		}
	}
	return out
}
