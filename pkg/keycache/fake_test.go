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

// fakeAPI is a key API in memory, with facts, a change log, and faults on demand. Tests change its
// fields through set.
type fakeAPI struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced by set
	epoch    string
	revision int64
	oldest   int64            // the log reaches back to this revision
	numbers  map[string]int64 // largest poll number of each name; MaxInt64 after its deregistration
	log      []sidecarapi.AppliedChange
	facts    map[credential.Digest]credential.Record

	lease                 time.Duration
	timeout               time.Duration // of one resolve
	sendDelay, replyDelay time.Duration // of a resolve
	pollDelay             time.Duration // of a poll, in each direction
	resolveErr            error         // answer to resolves
	pollErr               error         // answer to polls
	editResolved          func(*sidecarapi.Resolved)
	editChanges           func(*sidecarapi.Changes)
	leaseForHead          bool                            // polls of the head are answered with a lease
	noWait                bool                            // polls are answered immediately
	onPoll                func(sidecarapi.ChangesRequest) // called for every poll that arrives
	newestAnswered        int64                           // newest revision in an answer to a poll

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
		changed: make(chan struct{}), epoch: "one", numbers: make(map[string]int64), facts: make(map[credential.Digest]credential.Record),
		counts: make(map[credential.Digest]int), lease: 15 * time.Second, timeout: 400 * time.Millisecond,
	}
}

// set changes the API. Waiting polls see the change.
func (a *fakeAPI) set(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
	close(a.changed)
	a.changed = make(chan struct{})
}

// disconnect makes the API unreachable, reconnect makes it reachable again.
func (a *fakeAPI) disconnect() {
	a.set(func() { a.resolveErr, a.pollErr = errUnreachable, errUnreachable })
}
func (a *fakeAPI) reconnect() { a.set(func() { a.resolveErr, a.pollErr = nil, nil }) }

// put stores a fact without a change in the log.
func (a *fakeAPI) put(d credential.Digest, rec credential.Record) { a.set(func() { a.facts[d] = rec }) }

// change stores a fact with a change in the log.
func (a *fakeAPI) change(d credential.Digest, rec credential.Record) {
	a.set(func() {
		a.revision++
		a.facts[d] = rec
		a.log = append(a.log, sidecarapi.AppliedChange{Revision: a.revision, Digest: d})
	})
}

// changeAccount changes an account's state.
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

// replace starts another log, as a restore does.
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
	send, reply := a.sendDelay, a.replyDelay
	a.mu.Unlock()
	defer cancel()
	if err := delay(ctx, send); err != nil {
		return sidecarapi.Resolved{}, err
	}
	a.mu.Lock()
	out, err := a.resolved(digests), a.resolveErr
	a.mu.Unlock()
	if err := errors.Join(err, delay(ctx, reply)); err != nil {
		return sidecarapi.Resolved{}, err
	}
	return out, nil
}

func (a *fakeAPI) resolved(digests []credential.Digest) sidecarapi.Resolved {
	out := sidecarapi.Resolved{Epoch: a.epoch, Revision: a.revision}
	for _, d := range digests {
		result := sidecarapi.Result{Outcome: sidecarapi.NotFound}
		if rec, ok := a.facts[d]; ok {
			result = sidecarapi.Result{Outcome: sidecarapi.Found, Record: rec}
		}
		out.Results = append(out.Results, result)
	}
	if a.editResolved != nil {
		a.editResolved(&out)
	}
	return out
}

func (a *fakeAPI) Changes(ctx context.Context, req sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	a.mu.Lock()
	a.polls = append(a.polls, pollSeen{time.Now(), req})
	pollDelay, onPoll := a.pollDelay, a.onPoll
	a.mu.Unlock()
	if err := delay(ctx, pollDelay); err != nil {
		return sidecarapi.Changes{}, err
	}
	if onPoll != nil {
		onPoll(req)
	}
	if err := a.recordNumber(req); err != nil {
		return sidecarapi.Changes{}, errors.Join(err, delay(ctx, pollDelay))
	}
	answer, err := a.await(ctx, req)
	if gone := new(sidecarapi.Gone); err == nil || errors.As(err, &gone) {
		err = errors.Join(err, delay(ctx, pollDelay))
	}
	return answer, err
}

// await waits for changes, as a long poll does.
func (a *fakeAPI) await(ctx context.Context, req sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	timer := time.NewTimer(time.Duration(req.WaitMS) * time.Millisecond)
	defer timer.Stop()
	for last := req.WaitMS == 0; ; {
		a.mu.Lock()
		answer, err := a.changesSince(req)
		changed := a.changed
		a.mu.Unlock()
		if err != nil || last || a.noWait || len(answer.List) > 0 || req.Leave {
			a.mu.Lock()
			defer a.mu.Unlock()
			if err == nil && a.editChanges != nil {
				a.editChanges(&answer)
			}
			if err == nil {
				a.newestAnswered = max(a.newestAnswered, answer.Revision)
			}
			return answer, err
		}
		select {
		case <-changed:
		case <-timer.C:
			last = true
		case <-ctx.Done():
			return sidecarapi.Changes{}, ctx.Err()
		}
	}
}

// recordNumber checks the poll's number and puts it on record.
func (a *fakeAPI) recordNumber(req sidecarapi.ChangesRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.pollErr != nil:
		return nil // the poll does not arrive
	case req.Poll <= a.numbers[req.Sidecar]:
		return sidecarapi.ErrConflict
	case req.Leave:
		a.numbers[req.Sidecar] = math.MaxInt64
	case req.After != headOnly:
		a.numbers[req.Sidecar] = req.Poll
	}
	return nil
}

func (a *fakeAPI) changesSince(req sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	out := sidecarapi.Changes{Epoch: a.epoch, Revision: a.revision, Lease: a.lease}
	switch {
	case a.pollErr != nil:
		return sidecarapi.Changes{}, a.pollErr
	case req.After == headOnly && a.leaseForHead:
		return out, nil
	case req.After == headOnly && !req.Leave:
		a.newestAnswered = max(a.newestAnswered, a.revision)
		return sidecarapi.Changes{}, &sidecarapi.Gone{Epoch: a.epoch, Revision: a.revision}
	case req.Leave:
		out.Lease = 0
		return out, nil
	case req.Epoch != a.epoch, req.After > a.revision, req.After < a.oldest:
		return sidecarapi.Changes{}, &sidecarapi.Gone{Epoch: a.epoch, Revision: a.revision}
	default:
		for _, change := range a.log {
			if change.Revision > req.After {
				out.List = append(out.List, change)
			}
		}
	}
	return out, nil
}

// delay waits. It makes no timer for 0: Go 1.26 with the race detector may crash in a select on a
// timer of a synctest bubble that is due already (runtime.(*timer).maybeRunChan).
func delay(ctx context.Context, d time.Duration) error {
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

// resolvedCount counts the resolves of a digest.
func (a *fakeAPI) resolvedCount(d credential.Digest) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[d]
}

// total counts the resolved digests, with repeats, and the resolves.
func (a *fakeAPI) total() (digests, requests int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := range maps.Values(a.counts) {
		digests += n
	}
	return digests, len(a.resolves)
}

func (a *fakeAPI) pollsSeen() []pollSeen {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.polls)
}

// resetCounts forgets the resolves and polls seen so far.
func (a *fakeAPI) resetCounts() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resolves, a.polls = nil, nil
	clear(a.counts)
}
