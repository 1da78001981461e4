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

// fixture is a cache in front of a fake key API, in a synctest bubble. A goroutine that outlives
// Close is a deadlock of the bubble, so the test fails.
type fixture struct {
	*Cache
	t    *testing.T
	api  *fakeAPI
	stop func() // ends Run and waits; nil while it does not run

	concurrent bool // changes are applied during look-ups, so two reads of the cache may differ
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

// namer returns a function that returns the prefix, then the prefix with -2, -3, ….
func namer(prefix string) func() string {
	n := 0
	return func() string {
		if n++; n == 1 {
			return prefix
		}
		return fmt.Sprint(prefix, "-", n)
	}
}

// changesOptional allows a key API without a change log.
func changesOptional(o *Options) { o.ChangesOptional = true }

// bubble runs a test whose key API has the credentials "good", "revoked" and "terminated".
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

// goodKey returns a key in force with its own account.
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

// start runs the follower, and returns when it waits for an answer or a retry.
func (f *fixture) start() {
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

// advance lets time pass.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// lookup looks a credential up with a deadline of 1 s and names the outcome. If Cached has an answer,
// it must be that of Lookup.
func (f *fixture) lookup(name string) string {
	f.t.Helper()
	cached, known := f.cached(name)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	rec, found, err := f.Lookup(ctx, digest(name))
	got := outcome(rec, found, err)
	if known && cached != got {
		f.t.Errorf("%s is %s for Cached, %s for Lookup", name, cached, got)
	}
	return got
}

// cached looks a credential up in the cache alone and names the outcome.
func (f *fixture) cached(name string) (got string, known bool) {
	f.t.Helper()
	began, seen := time.Now(), f.Inspect(digest(name))
	rec, found, known := f.Cached(digest(name))
	if seen.answers() != known && !f.concurrent {
		f.t.Errorf("%s: Cached has an answer: %v, want what Inspect reports: %+v of %+v", name, known, seen.Entry, seen)
	}
	if took := time.Since(began); took != 0 {
		f.t.Errorf("Cached waited %s", took)
	}
	return outcome(rec, found, nil), known
}

// answers reports whether Cached has an answer.
func (i Inspection) answers() bool {
	return i.Entry != nil && (i.Entry.Freshness == "fresh" || i.ResolvesFail && (i.Entry.Freshness == "refresh" || i.Entry.MayServe))
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

// want compares the outcome of a look-up.
func (f *fixture) want(name, want string) {
	f.t.Helper()
	if got := f.lookup(name); got != want {
		f.t.Errorf("%s is %s, want %s", name, got, want)
	}
}

// wantHit also expects a cache hit: no time passes, and nothing is resolved.
func (f *fixture) wantHit(name, want string) {
	f.t.Helper()
	before, began := f.api.resolvedCount(digest(name)), time.Now()
	f.want(name, want)
	synctest.Wait()
	if took := time.Since(began); took != 0 {
		f.t.Errorf("%s took %s, want a cache hit", name, took)
	}
	if got := f.api.resolvedCount(digest(name)) - before; got != 0 {
		f.t.Errorf("%s was resolved %d times, want a cache hit", name, got)
	}
}

// wantMiss also expects that the digest is resolved.
func (f *fixture) wantMiss(name, want string) {
	f.t.Helper()
	before := f.api.resolvedCount(digest(name))
	f.want(name, want)
	if got := f.api.resolvedCount(digest(name)) - before; got == 0 {
		f.t.Errorf("%s was a cache hit, want it resolved", name)
	}
}

// wantMode compares the current mode.
func (f *fixture) wantMode(want mode) {
	f.t.Helper()
	if got := f.mode(); got != want {
		f.t.Errorf("the cache is %s, want %s", modeNames[got], modeNames[want])
	}
}

// allNames has one credential of each state; the key API does not have "missing".
var allNames = []string{"good", "revoked", "terminated", "missing"}

// answers are the outcomes of allNames; "" is not looked up.
type answers [4]string

var (
	allAnswers    = answers{"good", "revoked", "terminated", "unknown"}
	recordAnswers = answers{"good", "revoked", "terminated", ""}
	foundAnswers  = answers{"good", "revoked", "terminated", "503"}
	noAnswers     = answers{"503", "503", "503", "503"}
)

// wantEach looks up allNames with one of the functions above.
func (f *fixture) wantEach(want func(name, outcome string), outcomes answers) {
	f.t.Helper()
	for i, name := range allNames {
		if outcomes[i] != "" {
			want(name, outcomes[i])
		}
	}
}

// warm caches all of allNames.
func (f *fixture) warm() {
	f.t.Helper()
	f.wantEach(f.want, allAnswers)
}

// names returns n names.
func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return list
}

// unusableResults makes every result unusable.
func unusableResults(r *sidecarapi.Resolved) {
	for i := range r.Results {
		r.Results[i] = sidecarapi.Result{}
	}
}

// sizes counts the entries of both pools.
func (p pools) sizes() (known, unknown int) { return p.sum(knownPool).size, p.sum(unknownPool).size }
