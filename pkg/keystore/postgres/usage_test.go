package postgres_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// A report waits for a mutation of its keys, also if the role's lock_timeout is short.
func TestRecordUsageWaitsForRows(t *testing.T) {
	t.Parallel()
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	execute(t, server.URL(name), "ALTER ROLE postgres IN DATABASE "+name+" SET lock_timeout = '1ms'")
	s := withAccount(t, server.URL(name))
	defer mustClose(t, s)
	k, err := mint(t.Context(), s, "key_1")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), server.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), "BEGIN; SELECT FROM keys FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	recorded := make(chan error, 1)
	go func() {
		recorded <- s.RecordUsage(t.Context(), "s", []keystore.Usage{{Digest: k.Digest, LastUsedAt: k.CreatedAt.Add(time.Second), Allowed: 1}})
	}()
	for waiting := false; !waiting; {
		select {
		case err := <-recorded:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		waiting = server.Exec(t.Context(), name, `DO $$BEGIN ASSERT (SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND now() - query_start > '10 ms') = 1; END$$`) == nil
	}
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-recorded; err != nil {
		t.Error(err)
	}
}
