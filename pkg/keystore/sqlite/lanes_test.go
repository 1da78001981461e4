package sqlite

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// While 500 owners' changes wait, an operator's revocation goes after the one in flight, and a poll before that.
func TestOwnersDelayNoRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := withAccount(t, Options{})
		if err := mint(t.Context(), s, "leaked"); err != nil {
			t.Fatal(err)
		}
		head, err := s.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var work errgroup.Group
		var revoked keystore.Key
		var polled keystore.Head
		whileWriting(t, s, func() {
			for i := range 500 {
				work.Go(func() error {
					id := fmt.Sprint("owned_", i)
					_, err := s.CreateKey(t.Context(), "owner:acc", keystore.NewKey{ID: id, Account: "acc", Digest: credential.NewSecret(id).Digest()})
					return err
				})
			}
			synctest.Wait()
			work.Go(func() (err error) {
				revoked, err = s.RevokeKey(t.Context(), "operator:test", "leaked", "")
				return err
			})
			synctest.Wait()
			work.Go(func() (err error) {
				p := keystore.Poll{Sidecar: "s", Number: 1, Epoch: head.Epoch, Revision: head.Revision, Limit: 1000, Lease: time.Minute}
				polled, _, err = s.RecordPoll(t.Context(), p)
				return err
			})
			synctest.Wait()
		})
		if err := work.Wait(); err != nil {
			t.Fatal(err)
		}
		if polled.Revision != head.Revision || revoked.Revision != head.Revision+1 {
			t.Errorf("from revision %d on: the poll saw %d, the revoke made %d", head.Revision, polled.Revision, revoked.Revision)
		}
	})
}
