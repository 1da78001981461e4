package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

func someKeys(prefix string, n int) []keystore.NewKey {
	keys := make([]keystore.NewKey, n)
	for i := range keys {
		id := fmt.Sprintf("key_%s_%d", prefix, i)
		keys[i] = keystore.NewKey{ID: id, Account: "acc", Label: "imported", Digest: credential.NewSecret(id).Digest()}
	}
	return keys
}

// COPY works through a pooler that gives each transaction another session, while another replica makes small changes.
func TestImportThroughPooler(t *testing.T) {
	t.Parallel()
	a, b := throughPooler(t)
	const writers, rounds, each = 4, 5, 200
	g, ctx := errgroup.WithContext(t.Context())
	for w := range writers {
		s := []*postgres.Store{a, b}[w%2]
		g.Go(func() error {
			for r := range rounds {
				if _, err := mint(ctx, s, fmt.Sprintf("minted_%d_%d", w, r)); err != nil {
					return err
				}
				for range 2 { // the second time all exist
					done, err := s.ImportKeys(ctx, "operator:test", someKeys(fmt.Sprintf("%d_%d", w, r), each))
					if err != nil {
						return err
					}
					if done.Imported+done.Existing != each {
						return fmt.Errorf("%+v of %d", done, each)
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	head, err := b.Head(t.Context())
	if err != nil || head.Revision != 1+writers*rounds*(each+1) {
		t.Errorf("revision %d, %v", head.Revision, err)
	}
}

// An import whose connection or context ends writes nothing, and the next one gets another connection.
func TestInterruptedImport(t *testing.T) {
	t.Parallel()
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := withAccount(t, server.URL(name))
	defer mustClose(t, s)
	other := open(t, server.URL(name), postgres.Options{}) // another process
	defer mustClose(t, other)
	before, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held, release := make(chan struct{}), make(chan struct{})
	var g errgroup.Group
	g.Go(func() error { return other.Hold(context.WithoutCancel(t.Context()), held, release) })
	<-held
	g.Go(func() error {
		_, err := s.ImportKeys(context.WithoutCancel(t.Context()), "operator:test", someKeys("x", 100))
		if err == nil {
			return errors.New("the import succeeded")
		}
		return nil
	})
	for waiting := false; !waiting; {
		waiting = server.Exec(t.Context(), name, `DO $$BEGIN ASSERT (SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock') = 1; END$$`) == nil
	}
	execute(t, server.URL(name), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`)
	close(release)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	after, err := s.Head(t.Context())
	if err != nil || after.Revision != before.Revision {
		t.Errorf("revision %d, before %d, %v", after.Revision, before.Revision, err)
	}
	done, err := s.ImportKeys(t.Context(), "operator:test", someKeys("x", 100))
	if err != nil || done.Imported != 100 {
		t.Errorf("%+v, %v", done, err)
	}
	// The context may end while rows are sent.
	for limit := time.Millisecond; ; limit *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		_, err := s.ImportKeys(ctx, "operator:test", someKeys("late", keystore.MaxImport))
		late := ctx.Err()
		cancel()
		if err == nil {
			return
		}
		if late == nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("within %v: %v", limit, err)
		}
	}
}
