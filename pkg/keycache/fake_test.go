package keycache

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// fakeAPI is a key API in memory: facts, a change log, and faults on demand. Its
// fields are set between calls, through set.
type fakeAPI struct {
	mu       sync.Mutex
	moved    chan struct{} // closed by every change and by every new setting
	epoch    string
	revision int64
	oldest   int64            // the log reaches back to here
	numbers  map[string]int64 // the largest poll number of each name; of one that has left, all are refused
	log      []sidecarapi.AppliedChange
	facts    map[credential.Digest]credential.Record

	lease       time.Duration
	timeout     time.Duration // of one resolve
	there, back time.Duration // how long a resolve travels
	poll        time.Duration // how long a poll travels, each way
	down        error         // what resolve answers
	deaf        error         // what changes answers
	tamper      func(*sidecarapi.Resolved)
	twist       func(*sidecarapi.Changes)
	oldStart    bool                            // polls of the head are answered with a lease
	answered    int64                           // the newest revision that an answer to a poll had
	hasty       bool                            // polls are answered at once
	watch       func(sidecarapi.ChangesRequest) // is told of every poll that arrives

	resolves []resolveSeen
	polls    []pollSeen
	counts   map[credential.Digest]int
}

type resolveSeen struct {
	at      time.Time
	digests []credential.Digest
}

type pollSeen struct {
	at time.Time
	sidecarapi.ChangesRequest
}

var errUnreachable = errors.New("unreachable")

func newFakeAPI() *fakeAPI {
	return &fakeAPI{
		moved: make(chan struct{}), epoch: "one", numbers: make(map[string]int64), facts: make(map[credential.Digest]credential.Record),
		counts: make(map[credential.Digest]int), lease: 15 * time.Second, timeout: 400 * time.Millisecond,
	}
}

// set changes what the API is like. Who waits there looks again.
func (a *fakeAPI) set(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
	close(a.moved)
	a.moved = make(chan struct{})
}

// cut makes the API unreachable, mend reachable again.
func (a *fakeAPI) cut()  { a.set(func() { a.down, a.deaf = errUnreachable, errUnreachable }) }
func (a *fakeAPI) mend() { a.set(func() { a.down, a.deaf = nil, nil }) }

// put stores a fact without telling anybody.
func (a *fakeAPI) put(d credential.Digest, rec credential.Record) { a.set(func() { a.facts[d] = rec }) }

// change stores a fact and puts it into the log.
func (a *fakeAPI) change(d credential.Digest, rec credential.Record) {
	a.set(func() {
		a.revision++
		a.facts[d] = rec
		a.log = append(a.log, sidecarapi.AppliedChange{Revision: a.revision, Digest: d})
	})
}

// changeAccount gives an account another state.
func (a *fakeAPI) changeAccount(id string, state credential.State) {
	a.set(func() {
		a.revision++
		for d, rec := range a.facts {
			if rec.Account.ID == id {
				rec.Account.State = state
				a.facts[d] = rec
			}
		}
		a.log = append(a.log, sidecarapi.AppliedChange{Revision: a.revision, Account: id})
	})
}

// replace begins another log, as a restore does.
func (a *fakeAPI) replace(epoch string, revision int64) {
	a.set(func() { a.epoch, a.revision, a.oldest, a.log = epoch, revision, revision, nil })
}

func (a *fakeAPI) Resolve(ctx context.Context, digests []credential.Digest) (sidecarapi.Resolved, error) {
	a.mu.Lock()
	a.resolves = append(a.resolves, resolveSeen{time.Now(), slices.Clone(digests)})
	for _, d := range digests {
		a.counts[d]++
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	there, back := a.there, a.back
	a.mu.Unlock()
	defer cancel()
	if err := travel(ctx, there); err != nil {
		return sidecarapi.Resolved{}, err
	}
	a.mu.Lock()
	out, err := a.look(digests), a.down
	a.mu.Unlock()
	if err := errors.Join(err, travel(ctx, back)); err != nil {
		return sidecarapi.Resolved{}, err
	}
	return out, nil
}

func (a *fakeAPI) look(digests []credential.Digest) sidecarapi.Resolved {
	out := sidecarapi.Resolved{Epoch: a.epoch, Revision: a.revision}
	for _, d := range digests {
		result := sidecarapi.Result{Outcome: sidecarapi.NotFound}
		if rec, ok := a.facts[d]; ok {
			result = sidecarapi.Result{Outcome: sidecarapi.Found, Record: rec}
		}
		out.Results = append(out.Results, result)
	}
	if a.tamper != nil {
		a.tamper(&out)
	}
	return out
}

func (a *fakeAPI) Changes(ctx context.Context, ask sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	a.mu.Lock()
	a.polls = append(a.polls, pollSeen{time.Now(), ask})
	way, watch := a.poll, a.watch
	a.mu.Unlock()
	if err := travel(ctx, way); err != nil {
		return sidecarapi.Changes{}, err
	}
	if watch != nil {
		watch(ask)
	}
	if err := a.number(ask); err != nil {
		return sidecarapi.Changes{}, errors.Join(err, travel(ctx, way))
	}
	answer, err := a.await(ctx, ask)
	if gone := new(sidecarapi.Gone); err == nil || errors.As(err, &gone) {
		err = errors.Join(err, travel(ctx, way))
	}
	return answer, err
}

// await is the server's side of the long poll.
func (a *fakeAPI) await(ctx context.Context, ask sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	timer := time.NewTimer(time.Duration(ask.WaitMS) * time.Millisecond)
	defer timer.Stop()
	for last := ask.WaitMS == 0; ; {
		a.mu.Lock()
		answer, err := a.since(ask)
		moved := a.moved
		a.mu.Unlock()
		if err != nil || last || a.hasty || len(answer.List) > 0 || ask.Leave {
			a.mu.Lock()
			defer a.mu.Unlock()
			if err == nil && a.twist != nil {
				a.twist(&answer)
			}
			if err == nil {
				a.answered = max(a.answered, answer.Revision)
			}
			return answer, err
		}
		select {
		case <-moved:
		case <-timer.C:
			last = true
		case <-ctx.Done():
			return sidecarapi.Changes{}, ctx.Err()
		}
	}
}

// number checks the poll's number and puts it on record.
func (a *fakeAPI) number(ask sidecarapi.ChangesRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.deaf != nil:
		return nil // and nothing arrives
	case ask.Poll <= a.numbers[ask.Sidecar]:
		return sidecarapi.ErrConflict
	case ask.Leave:
		a.numbers[ask.Sidecar] = math.MaxInt64
	case ask.After != headOnly:
		a.numbers[ask.Sidecar] = ask.Poll
	}
	return nil
}

func (a *fakeAPI) since(ask sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	out := sidecarapi.Changes{Epoch: a.epoch, Revision: a.revision, Lease: a.lease}
	switch {
	case a.deaf != nil:
		return sidecarapi.Changes{}, a.deaf
	case ask.After == headOnly && a.oldStart:
		return out, nil
	case ask.After == headOnly && !ask.Leave:
		a.answered = max(a.answered, a.revision)
		return sidecarapi.Changes{}, &sidecarapi.Gone{Epoch: a.epoch, Revision: a.revision}
	case ask.Leave:
		out.Lease = 0
		return out, nil
	case ask.Epoch != a.epoch, ask.After > a.revision, ask.After < a.oldest:
		return sidecarapi.Changes{}, &sidecarapi.Gone{Epoch: a.epoch, Revision: a.revision}
	default:
		for _, change := range a.log {
			if change.Revision > ask.After {
				out.List = append(out.List, change)
			}
		}
	}
	return out, nil
}

// travel takes the time of the way. Without one it makes no timer: Go 1.26 with the race detector may
// crash in a select on a timer of a synctest bubble that is due already (runtime.(*timer).maybeRunChan).
func travel(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// asked tells how often the digest was asked for.
func (a *fakeAPI) asked(d credential.Digest) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[d]
}

// total counts the digests asked for, with repeats, and the requests.
func (a *fakeAPI) total() (digests, requests int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := range maps.Values(a.counts) {
		digests += n
	}
	return digests, len(a.resolves)
}

func (a *fakeAPI) seen() []pollSeen {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.polls)
}

// forgetSeen begins the counting anew.
func (a *fakeAPI) forgetSeen() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resolves, a.polls = nil, nil
	clear(a.counts)
}
