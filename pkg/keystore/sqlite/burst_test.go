package sqlite

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// slowEngine has transactions that take a while.
type slowEngine struct {
	*Store
	transactions int
}

func (e *slowEngine) Mutate(ctx context.Context, lane sqlstore.Lane, actor string, do func(t *sqlstore.Tx) error) error {
	e.transactions++
	defer func() { <-time.After(500 * time.Microsecond) }()
	return e.Store.Mutate(ctx, lane, actor, do)
}

// The polls of many sidecars that arrive one after another share few transactions. A few polls do not wait for more.
func TestBurstOfPolls(t *testing.T) {
	for _, tt := range []struct{ polls, most int }{{3, 3}, {200, 4}} {
		t.Run(fmt.Sprint(tt.polls), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := &slowEngine{Store: withAccount(t, Options{})}
				core := sqlstore.NewCore(engine, queries, nil)
				head, err := core.Head(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var polls errgroup.Group
				began := time.Now()
				for i := range tt.polls {
					polls.Go(func() error {
						_, _, err := core.RecordPoll(t.Context(), keystore.Poll{
							Sidecar: fmt.Sprint("s", i), Number: 1, Epoch: head.Epoch, Revision: head.Revision, Limit: 1, Lease: time.Minute,
						})
						return err
					})
					<-time.After(20 * time.Microsecond)
				}
				sent := time.Now()
				if err := polls.Wait(); err != nil {
					t.Fatal(err)
				}
				if engine.transactions > tt.most || time.Since(sent) > 2*time.Millisecond {
					t.Errorf("%d transactions, want at most %d; sent within %s, recorded %s later", engine.transactions, tt.most, sent.Sub(began), time.Since(sent))
				}
				core.Stop()
			})
		})
	}
}
