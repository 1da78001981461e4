package keyserver

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

const (
	// readPauseFactor is the pause between two reads of a change's progress, in durations of a read. Thousands of
	// sidecars acknowledge a change within moments of each other. Smaller takes the processor from the
	// acknowledgements; larger delays the answer after the last one.
	readPauseFactor = 4
	// minReadPause is the shortest pause. Smaller makes a fast store be read without a break.
	minReadPause = time.Millisecond
	// maxReadPause is the longest pause after a read that is not longer itself. It is a part of the delay after the
	// last acknowledgement, which is 50 ms at most.
	maxReadPause = 10 * time.Millisecond
	// fewWaiting is how many sidecars may miss a change without the longest pause. Smaller delays the answer when they poll
	// another process; larger reads the store while many sidecars acknowledge.
	fewWaiting = 16
	// checkInterval is how often the store is read if it signals nothing. Its signals may be late or lost. Smaller
	// costs the store more reads; larger makes a lost signal delay an answer for longer.
	checkInterval = time.Second
)

// changed answers a request that has made the change of the revision, or failed. It adds the change to the answer.
func (s *Server) changed(ctx context.Context, c *call, status int, answer operatorapi.Answer, revision int64, err error) (httpapi.Response, error) {
	if err != nil {
		return httpapi.Response{}, err
	}
	change, err := s.awaitChange(ctx, c, revision)
	if err != nil {
		return httpapi.Response{}, err
	}
	answer.Change = &change
	return httpapi.Response{Status: status, Body: answer}, nil
}

// awaitChange returns the progress of a change once it is effective or the wait of the request is over.
func (s *Server) awaitChange(ctx context.Context, c *call, revision int64) (operatorapi.Change, error) {
	c.Release()
	ctx = context.WithoutCancel(ctx) // the wait may be longer than the timeout of the store
	until := time.Now().Add(c.Query.Wait)
	acks := s.acks.begin(revision)
	defer acks.end()
	var last operatorapi.Change
	for first := true; ; first = false {
		acks.restart()
		signal, began := s.store.Changed(), time.Now()
		head, progress, err := s.progress(ctx, revision)
		if err != nil {
			if first {
				return operatorapi.Change{}, err
			}
			break // the progress that was read before is still true
		}
		last = changeOf(c, revision, progress)
		left, took := time.Until(until), time.Since(began)
		rest := min(max(readPauseFactor*took, minReadPause), maxReadPause)
		switch {
		case took > maxReadPause: // reads must stay a part of the time
			rest = readPauseFactor * took
		case progress.Waiting > fewWaiting:
			rest = maxReadPause
		}
		if progress.Effective || left <= 0 || !pause(c.Request.Context(), min(left, rest), acks.after(progress.Waiting), s.draining) {
			break
		}
		// Without a signal the change becomes effective when the time of the last sidecar is over.
		left = min(time.Until(until), checkInterval, progress.EffectiveBy.Sub(head.Now)-maxReadPause)
		if !pause(c.Request.Context(), left, signal, s.draining) {
			break
		}
	}
	return last, nil
}

func (s *Server) progress(ctx context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Progress(ctx, revision)
}

// pause returns after d or when signal is closed. It returns false if ctx ends or stop is closed before.
func pause(ctx context.Context, d time.Duration, signal, stop <-chan struct{}) bool {
	select {
	case <-time.After(d):
		return true
	case <-signal:
		return true
	case <-stop:
		return false
	case <-ctx.Done():
		return false
	}
}

// listed answers a request for a list.
func listed(page operatorapi.Page, next string, err error) (httpapi.Response, error) {
	page.Next = notEmpty(next)
	if err != nil {
		return httpapi.Response{}, err
	}
	return httpapi.OK(page)
}

// each converts the elements of a list. It returns an empty list for none, which is not null in JSON.
func each[T, V any](list []T, convert func(T) V) []V {
	out := make([]V, len(list))
	for i, item := range list {
		out[i] = convert(item)
	}
	return out
}

func accountOf(a keystore.Account) operatorapi.Account {
	return operatorapi.Account{
		ID:           a.ID,
		Name:         a.Name,
		State:        a.State.String(),
		CreatedAt:    a.CreatedAt.UTC(),
		TerminatedAt: notZero(a.TerminatedAt),
	}
}

func keyOf(k keystore.Key) operatorapi.Key {
	return operatorapi.Key{
		ID:         k.ID,
		Account:    k.Account,
		Label:      k.Label,
		Hint:       notEmpty(k.Hint),
		Scopes:     k.Scopes.List(),
		State:      k.State.String(),
		CreatedAt:  k.CreatedAt.UTC(),
		CreatedBy:  k.CreatedBy,
		ExpiresAt:  notZero(k.ExpiresAt),
		RevokedAt:  notZero(k.RevokedAt),
		LastUsedAt: notZero(k.LastUsedAt),
		ReplacedBy: notEmpty(k.ReplacedBy),
	}
}

func sessionOf(s keystore.Session) operatorapi.Session {
	return operatorapi.Session{ID: s.ID, Account: s.Account, CreatedAt: s.CreatedAt.UTC(), ExpiresAt: s.ExpiresAt.UTC()}
}

func changeOf(c *call, revision int64, p keystore.Progress) operatorapi.Change {
	change := operatorapi.Change{Revision: revision, Effective: p.Effective, EffectiveBy: notZero(p.EffectiveBy)}
	if c.Caller.operator {
		change.Waiting, change.WaitingFor = &p.Waiting, p.WaitingFor
	}
	return change
}

func sidecarOf(s keystore.Sidecar) operatorapi.Sidecar {
	return operatorapi.Sidecar{Name: s.Name, Revision: s.Revision, LeaseEndsAt: s.LeaseEndsAt.UTC(), StaleEndsAt: s.StaleEndsAt.UTC()}
}

func eventOf(e keystore.Event) operatorapi.Event {
	return operatorapi.Event{
		At: e.At.UTC(), Actor: e.Actor, Action: string(e.Action), Account: e.Account, Key: notEmpty(e.Key), Detail: e.Detail,
	}
}

func usageOf(u keystore.UsageHour) operatorapi.UsageHour {
	return operatorapi.UsageHour{Hour: u.Hour.UTC(), Allowed: u.Allowed, Denied: u.Denied}
}

// notZero returns nil for the zero time.
func notZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// notEmpty returns nil for the empty string.
func notEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// mint makes a credential: its plaintext and what is stored of it.
func mint(kind credential.Kind) (plaintext operatorapi.Plaintext, digest credential.Digest, hint string) {
	secret := credential.Mint(kind)
	return operatorapi.Plaintext{Secret: secret}, secret.Digest(), credential.Hint(secret)
}
