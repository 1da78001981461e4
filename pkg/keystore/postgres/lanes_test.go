package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// While 300 owners' changes wait, an operator's revocation goes after the one in flight, and a poll before that.
func TestOwnersDelayNoRevocation(t *testing.T) {
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := withAccount(t, server.URL(name))
	defer mustClose(t, s)
	leaked, err := mint(t.Context(), s, "leaked")
	if err != nil {
		t.Fatal(err)
	}
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held, release := make(chan struct{}), make(chan struct{})
	var work errgroup.Group
	work.Go(func() error { return s.Hold(t.Context(), held, release) })
	<-held
	const owners = 300
	for i := range owners {
		work.Go(func() error {
			id := fmt.Sprint("owned_", i)
			_, err := s.CreateKey(t.Context(), "owner:acc", keystore.NewKey{ID: id, Account: "acc", Digest: credential.NewSecret(id).Digest()})
			return err
		})
	}
	await(t, func() bool { _, _, others := s.Waiting(); return others == owners })
	var revoked keystore.Key
	work.Go(func() (err error) {
		revoked, err = s.RevokeKey(t.Context(), "operator:test", leaked.ID, "")
		return err
	})
	await(t, func() bool { _, operators, _ := s.Waiting(); return operators == 1 })
	var polled keystore.Head
	work.Go(func() (err error) {
		p := keystore.Poll{Sidecar: "s", Number: 1, Epoch: head.Epoch, Revision: head.Revision, Limit: 1000, Lease: time.Minute}
		polled, _, err = s.RecordPoll(t.Context(), p)
		return err
	})
	await(t, func() bool { return s.Writing() == 2 })
	close(release)
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	if polled.Revision != head.Revision || revoked.Revision != head.Revision+1 {
		t.Errorf("from revision %d on: the poll saw %d, the revoke made %d", head.Revision, polled.Revision, revoked.Revision)
	}
}

func await(t *testing.T, what func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !what(); <-time.After(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("timed out")
		}
	}
}
