package keycache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a cache before a fake key API, in a bubble whose time is the test's. A
// goroutine that outlives Close is a deadlock of the bubble, and so a failure.
type fixture struct {
	*Cache
	t    *testing.T
	api  *fakeAPI
	stop func() // ends Run and waits for it; nil while it does not run
}

func options() Options {
	return Options{
		Name:      namer("sidecar"),
		Known:     1000,
		Unknown:   1000,
		Times:     Times{MaxAge: time.Hour, ConfirmAfter: 10 * time.Second, MaxStale: 15 * time.Minute},
		Admission: Admission{PerSecond: 200, Burst: 400},
		Log:       zap.NewNop(),
		Metrics:   prometheus.NewRegistry(),
	}
}

// namer returns a source of names: the prefix, then the prefix with -2, -3, ….
func namer(prefix string) func() string {
	n := 0
	return func() string {
		if n++; n == 1 {
			return prefix
		}
		return fmt.Sprint(prefix, "-", n)
	}
}

// optional allows a key API without a change log.
func optional(o *Options) { o.ChangesOptional = true }

// bubble runs a test with the key API's four kinds of credential in place: "good",
// "revoked", "terminated", and anything else, which nobody knows.
func bubble(t *testing.T, configure func(*Options), test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := options()
		if configure != nil {
			configure(&o)
		}
		f := &fixture{t: t, api: newFakeAPI()}
		f.Cache = New(f.api, o)
		defer f.Close()
		defer func() {
			if f.stop != nil {
				f.stop()
			}
		}()
		f.api.put(digest("good"), goodKey("good"))
		f.api.put(digest("revoked"), revoked(goodKey("revoked")))
		f.api.put(digest("terminated"), terminated(goodKey("terminated")))
		test(f)
	})
}

func digest(name string) credential.Digest { return credential.NewSecret(name).Digest() }

// goodKey belongs to an account of its own.
func goodKey(name string) credential.Record { return keyOf("account-of-"+name, name) }

func keyOf(account, name string) credential.Record {
	return credential.Record{
		Kind: credential.Key, ID: "key-" + name, State: credential.Active,
		Account: credential.Account{ID: account, State: credential.Active},
	}
}

func revoked(r credential.Record) credential.Record {
	r.State = credential.Revoked
	return r
}

func expires(r credential.Record, at time.Time) credential.Record {
	r.ExpiresAt = at
	return r
}

func terminated(r credential.Record) credential.Record {
	r.Account.State = credential.Terminated
	return r
}

// follow runs the follower, and returns once all that it does at once is done.
func (f *fixture) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := f.Run(ctx); err != nil {
			f.t.Error(err)
		}
	}()
	f.stop = func() {
		cancel()
		<-ended
		f.stop = nil
	}
	synctest.Wait()
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// ask looks a credential up on an Envoy-like deadline and names what a check would
// make of it.
func (f *fixture) ask(name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	rec, found, err := f.Lookup(ctx, digest(name))
	return outcome(rec, found, err)
}

func outcome(rec credential.Record, found bool, err error) string {
	switch {
	case errors.Is(err, credential.ErrRateLimited):
		return "429"
	case err != nil:
		return "503"
	case !found:
		return "unknown"
	case !rec.ExpiresAt.IsZero() && !time.Now().Before(rec.ExpiresAt):
		return "expired"
	case rec.State == credential.Revoked:
		return "revoked"
	case rec.Account.State == credential.Terminated:
		return "terminated"
	case rec.State == credential.Active && rec.Account.State == credential.Active:
		return "good"
	}
	return "neither"
}

// want asks and compares.
func (f *fixture) want(name, want string) {
	f.t.Helper()
	if got := f.ask(name); got != want {
		f.t.Errorf("%s is %s, want %s", name, got, want)
	}
}

// wantFromMemory also holds that nothing was asked for it, in no time.
func (f *fixture) wantFromMemory(name, want string) {
	f.t.Helper()
	before, began := f.api.asked(digest(name)), time.Now()
	f.want(name, want)
	synctest.Wait()
	if took := time.Since(began); took != 0 {
		f.t.Errorf("%s took %s, want an answer from memory", name, took)
	}
	if got := f.api.asked(digest(name)) - before; got != 0 {
		f.t.Errorf("%s was asked for %d times, want an answer from memory", name, got)
	}
}

// wantResolved also holds that it was asked for.
func (f *fixture) wantResolved(name, want string) {
	f.t.Helper()
	before := f.api.asked(digest(name))
	f.want(name, want)
	if got := f.api.asked(digest(name)) - before; got == 0 {
		f.t.Errorf("%s was answered from memory, want it resolved", name)
	}
}

// wantMode compares the mode of the moment.
func (f *fixture) wantMode(want mode) {
	f.t.Helper()
	if got := f.mode(); got != want {
		f.t.Errorf("the cache is %s, want %s", modeNames[got], modeNames[want])
	}
}

// all is one credential of each kind.
var all = []string{"good", "revoked", "terminated", "nobody"}

// warm asks for all four.
func (f *fixture) warm() {
	f.t.Helper()
	for name, want := range map[string]string{"good": "good", "revoked": "revoked", "terminated": "terminated", "nobody": "unknown"} {
		f.want(name, want)
	}
}

// names makes n names.
func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return list
}

// nothing makes every result of an answer teach nothing.
func nothing(r *sidecarapi.Resolved) {
	for i := range r.Results {
		r.Results[i] = sidecarapi.Result{}
	}
}
