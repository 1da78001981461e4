package storetest

import (
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// OpenAtOnce opens one new store several times at once, as replicas do that start
// together: all succeed, and there is one log.
func OpenAtOnce(t *testing.T, open func() (keystore.Store, error)) {
	t.Helper()
	var g errgroup.Group
	stores := make([]keystore.Store, 6)
	for i := range stores {
		g.Go(func() (err error) {
			stores[i], err = open()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	epochs := map[string]bool{}
	for _, s := range stores {
		if head, err := s.Head(t.Context()); err == nil {
			epochs[head.Epoch] = true
		}
		_ = s.Close()
	}
	if len(epochs) != 1 {
		t.Fatalf("%d epochs", len(epochs))
	}
}
