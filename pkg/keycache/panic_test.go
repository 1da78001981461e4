package keycache

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// panicking is a key API whose resolves panic.
type panicking struct{ *fakeAPI }

func (panicking) Resolve(context.Context, []credential.Digest) (sidecarapi.Resolved, error) {
	panic("a secret")
}

// A panic in a goroutine of the cache would end the process, which may be Envoy. It ends Run, and the
// look-up has no answer. During a long poll, too.
func TestPanicEndsRun(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.Cache.api = panicking{f.api}
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		synctest.Wait() // until the poll waits for changes
		checkCtx, cancelCheck := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancelCheck()
		if _, _, err := f.Lookup(checkCtx, digest("good")); err == nil {
			t.Error("the look-up has an answer")
		}
		synctest.Wait()
		select {
		case err := <-ended:
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("Run returned %v", err)
			}
		default:
			t.Fatal("Run has not returned")
		}
		if _, _, known := f.Cached(digest("good")); known {
			t.Error("the cache answers")
		}
	})
}

// The functions of timers run in goroutines, too.
func TestPanicOfATimerEndsRun(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.after(time.Second, func() { panic("a secret") })
		f.spawn(func() { panic("another") }) // the first is enough
		<-time.After(2 * time.Second)
		if err := f.Run(context.Background()); err == nil {
			t.Error("Run has not returned")
		}
	})
}
