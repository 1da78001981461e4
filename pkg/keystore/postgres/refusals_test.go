package postgres_test

import (
	"context"
	"sync"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/storetest"
)

func TestRefusalsWhileWriting(t *testing.T) {
	s := open(t, database(t, server), postgres.Options{})
	h := storetest.Harness{Store: s, Close: func() { mustClose(t, s) }}
	storetest.RefuseWhileWriting(t, h, func() func() {
		ctx, cancel := context.WithCancel(context.Background())
		held, stop := make(chan struct{}), make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() {
			// The server ends a transaction that is idle for long, and the error is ignored.
			_ = s.Mutate(ctx, sqlstore.LaneOperators, "operator:test", func(t *sqlstore.Tx) error {
				close(held)
				for t.Err == nil {
					select {
					case <-stop:
						return nil
					default:
						t.Exec("SELECT pg_sleep(0.1)")
					}
				}
				return t.Err
			})
		})
		<-held
		return func() { close(stop); work.Wait(); cancel() }
	})
}
