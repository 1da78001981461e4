package postgres_test

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

// Mutations that wait together share a transaction. One that the database refuses, or that has a conflict, fails alone.
func TestGroupFailsAlone(t *testing.T) {
	var work errgroup.Group
	s, release := heldStore(t, &work)
	const n = 8
	var keys [n]keystore.Key
	var errs [n]error
	for i := range n {
		k := keystore.NewKey{ID: fmt.Sprint("key_", i), Account: "acc", Digest: credential.NewSecret(fmt.Sprint(i)).Digest()}
		switch i {
		case 3:
			k.Label = "\x00" // PostgreSQL has no such text
		case 5:
			k.ID = "key_4"
		}
		work.Go(func() error {
			keys[i], errs[i] = s.CreateKey(t.Context(), "operator:test", k)
			return nil
		})
		await(t, func() bool { _, operators, _ := s.Waiting(); return operators == i+1 })
	}
	close(release)
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	var conflict *keystore.Conflict
	revision := int64(1) // of the account
	for i, err := range errs {
		switch i {
		case 3:
			if err == nil || errors.As(err, &conflict) {
				t.Errorf("a label that PostgreSQL refuses: %v", err)
			}
			continue
		case 5:
			if !errors.As(err, &conflict) {
				t.Errorf("an id that exists: %v", err)
			}
			continue
		}
		if revision++; err != nil || keys[i].Revision != revision {
			t.Errorf("key %d has revision %d, want %d: %v", i, keys[i].Revision, revision, err)
		}
	}
	head, changes, err := s.Changes(t.Context(), mustHead(t, s).Epoch, 0, 100)
	if err != nil || head.Revision != revision || int64(len(changes)) != revision {
		t.Errorf("%d changes up to revision %d, want %d: %v", len(changes), head.Revision, revision, err)
	}
}

// Without a refusal they have one time, that of the transaction.
func TestWaitingMutationsShareATransaction(t *testing.T) {
	var work errgroup.Group
	s, release := heldStore(t, &work)
	var keys [20]keystore.Key
	for i := range keys {
		work.Go(func() (err error) {
			keys[i], err = mint(t.Context(), s, fmt.Sprint("key_", i))
			return err
		})
	}
	await(t, func() bool { _, operators, _ := s.Waiting(); return operators == len(keys) })
	close(release)
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if !k.CreatedAt.Equal(keys[0].CreatedAt) {
			t.Errorf("%s was created at %v, %s at %v", k.ID, k.CreatedAt, keys[0].ID, keys[0].CreatedAt)
		}
	}
}

// heldStore returns a store whose mutations wait until release is closed.
func heldStore(t *testing.T, work *errgroup.Group) (s *postgres.Store, release chan struct{}) {
	t.Helper()
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s = withAccount(t, server.URL(name))
	t.Cleanup(func() { mustClose(t, s) })
	held, release := make(chan struct{}), make(chan struct{})
	work.Go(func() error { return s.Hold(t.Context(), held, release) })
	<-held
	return s, release
}

func mustHead(t *testing.T, s keystore.Store) keystore.Head {
	t.Helper()
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return head
}
