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

func TestFollow(t *testing.T) {
	down := &operatorapi.Error{Message: "down"}
	gone := &operatorapi.Error{Status: 404, Code: "NOT_FOUND", Message: "no"}
	type ask func(asked int, wait time.Duration) (operatorapi.Answer, error)
	patient := func(answer operatorapi.Answer, after int) ask { // an API that waits as it should
		return func(asked int, wait time.Duration) (operatorapi.Answer, error) {
			if asked == after {
				return answer, nil
			}
			<-time.After(wait)
			return notYet(time.Minute, "a"), nil
		}
	}
	for name, c := range map[string]struct {
		ask       ask
		effective bool
		err       error
		took      time.Duration
		asked     int
	}{
		"effective at the third look": {patient(effective, 3), true, nil, 2 * time.Second, 3},
		"never":                       {patient(effective, 0), false, nil, 10500 * time.Millisecond, 11},
		"an API that does not wait is not asked in a hurry": {
			func(int, time.Duration) (operatorapi.Answer, error) { return notYet(0, "a"), nil },
			false, nil, 10500 * time.Millisecond, 11,
		},
		"an outage that ends": {
			func(asked int, _ time.Duration) (operatorapi.Answer, error) {
				if asked < 4 {
					return operatorapi.Answer{}, down
				}
				return effective, nil
			}, true, nil, 3 * time.Second, 4,
		},
		"an outage that lasts": {
			func(int, time.Duration) (operatorapi.Answer, error) { return operatorapi.Answer{}, down },
			false, down, 10500 * time.Millisecond, 11,
		},
		"a refusal": {
			func(int, time.Duration) (operatorapi.Answer, error) { return operatorapi.Answer{}, gone },
			false, gone, 0, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, asked := time.Now(), 0
				answer, err := follow(t.Context(), notYet(time.Minute, "a"), began.Add(10500*time.Millisecond),
					func(_ context.Context, wait time.Duration) (operatorapi.Answer, error) {
						asked++
						return c.ask(asked, wait)
					},
					func(operatorapi.Change, error) {})
				if answer.Change.Effective != c.effective || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
					t.Errorf("effective %v, error %v", answer.Change.Effective, err)
				}
				if took := time.Since(began); took != c.took || asked != c.asked {
					t.Errorf("it took %v and %d requests, want %v and %d", took, asked, c.took, c.asked)
				}
			})
		})
	}
}

// Who stops waiting is told at once how far it is.
func TestFollowEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(2500*time.Millisecond, stop)
		began := time.Now()
		answer, err := follow(ctx, notYet(time.Minute, "a"), began.Add(time.Hour),
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

// On a terminal there is one line, written over each second, and the last one stays.
func TestProgressOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var screen bytes.Buffer
		p := progress{con: console{err: &screen, terminal: true}}
		long := notYet(90*time.Second, strings.Repeat("x", 100))
		p.show(p.waiting(*long.Change))
		p.show(p.waiting(*notYet(89*time.Second, "b\x1b").Change))
		p.show(p.waiting(*notYet(89*time.Second, "b\x1b").Change)) // nothing new
		p.end(outcome(*effective.Change))
		const clear = "\r\x1b[K"
		want := clear + "keyctl: revision 7 waits for " + strings.Repeat("x", 48) + "…" +
			clear + `keyctl: revision 7 waits for b\u{1b}; certain in 1m29s` +
			clear + "keyctl: effective: no sidecar can act on the old fact any more (revision 7)\n"
		if got := screen.String(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}
