package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

func notYet(by time.Duration, names ...string) operatorapi.Answer {
	at := time.Now().Add(by)
	return operatorapi.Answer{Change: &operatorapi.Change{Revision: 7, EffectiveBy: &at, WaitingFor: names}}
}

var effective = operatorapi.Answer{Change: &operatorapi.Change{Revision: 7, Effective: true}}

func TestPoll(t *testing.T) {
	down := &operatorapi.Error{Message: "down"}
	gone := &operatorapi.Error{Status: 404, Code: "NOT_FOUND", Message: "no"}
	type responder func(requests int, wait time.Duration) (operatorapi.Answer, error)
	waiting := func(answer operatorapi.Answer, after int) responder { // an API that honours wait_ms
		return func(requests int, wait time.Duration) (operatorapi.Answer, error) {
			if requests == after {
				return answer, nil
			}
			<-time.After(wait)
			return notYet(time.Minute, "a"), nil
		}
	}
	for name, c := range map[string]struct {
		respond   responder
		effective bool
		err       error
		took      time.Duration
		requests  int
	}{
		"effective at third request": {waiting(effective, 3), true, nil, 2 * time.Second, 3},
		"never effective":            {waiting(effective, 0), false, nil, 10500 * time.Millisecond, 11},
		"requests are spaced if the API does not wait": {
			func(int, time.Duration) (operatorapi.Answer, error) { return notYet(0, "a"), nil },
			false, nil, 10500 * time.Millisecond, 11,
		},
		"outage that ends": {
			func(requests int, _ time.Duration) (operatorapi.Answer, error) {
				if requests < 4 {
					return operatorapi.Answer{}, down
				}
				return effective, nil
			}, true, nil, 3 * time.Second, 4,
		},
		"outage that lasts": {
			func(int, time.Duration) (operatorapi.Answer, error) { return operatorapi.Answer{}, down },
			false, down, 10500 * time.Millisecond, 11,
		},
		"rejected": {
			func(int, time.Duration) (operatorapi.Answer, error) { return operatorapi.Answer{}, gone },
			false, gone, 0, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, requests := time.Now(), 0
				answer, err := poll(t.Context(), notYet(time.Minute, "a"), began.Add(10500*time.Millisecond),
					func(_ context.Context, wait time.Duration) (operatorapi.Answer, error) {
						requests++
						return c.respond(requests, wait)
					},
					func(operatorapi.Change, error) {})
				if answer.Change.Effective != c.effective || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
					t.Errorf("effective %v, error %v", answer.Change.Effective, err)
				}
				if took := time.Since(began); took != c.took || requests != c.requests {
					t.Errorf("took %v and %d requests, want %v and %d", took, requests, c.took, c.requests)
				}
			})
		})
	}
}

func TestPollReturnsLastStateIfCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(2500*time.Millisecond, stop)
		began := time.Now()
		answer, err := poll(ctx, notYet(time.Minute, "a"), began.Add(time.Hour),
			func(ctx context.Context, wait time.Duration) (operatorapi.Answer, error) {
				select {
				case <-time.After(wait):
					return notYet(time.Minute, "b"), nil
				case <-ctx.Done():
					return operatorapi.Answer{}, ctx.Err()
				}
			}, func(operatorapi.Change, error) {})
		if err != nil || answer.Change.Effective || answer.Change.WaitingFor[0] != "b" || time.Since(began) != 2500*time.Millisecond {
			t.Errorf("after %v: %+v, %v", time.Since(began), answer.Change, err)
		}
	})
}

func TestProgressOverwritesLineOnTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var screen bytes.Buffer
		p := progress{con: console{err: &screen, terminal: true}}
		long := notYet(90*time.Second, strings.Repeat("x", 100))
		p.show(p.waiting(*long.Change))
		p.show(p.waiting(*notYet(89*time.Second, "b\x1b").Change))
		p.show(p.waiting(*notYet(89*time.Second, "b\x1b").Change)) // unchanged
		p.end(outcome(*effective.Change))
		const clear = "\r\x1b[K"
		want := clear + "keyctl: revision 7 waits for " + strings.Repeat("x", 48) + "…" +
			clear + `keyctl: revision 7 waits for b\x1b; effective in 1m29s at the latest` +
			clear + "keyctl: effective: no sidecar can act on the old fact any more (revision 7)\n"
		if got := screen.String(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}
