package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

const (
	// firstWait is how long the change's own request waits. Mostly all sidecars acknowledge within
	// milliseconds. Larger delays printing a minted key; smaller costs another request.
	firstWait = time.Second
	// step is how long each later request waits. Larger shows progress later; smaller costs requests.
	// The API responds when the change is effective, so larger does not delay the end.
	step = time.Second
)

// await waits until the change in the answer is effective or -wait has run out, and shows the
// progress. It returns the answer with the last known state of the change, and the exit code.
func (s *session) await(ctx context.Context, answer operatorapi.Answer, began time.Time) (operatorapi.Answer, int) {
	shown := progress{con: s.con}
	revision := answer.Change.Revision
	request := func(ctx context.Context, wait time.Duration) (operatorapi.Answer, error) {
		return s.client.Do(ctx, operatorapi.Revision(revision).Waiting(wait))
	}
	answer, err := poll(ctx, answer, began.Add(s.opts.waits), request, func(c operatorapi.Change, lastErr error) {
		if lastErr != nil {
			shown.show("retrying: " + s.reason(lastErr))
			return
		}
		shown.show(shown.waiting(c))
	})
	shown.end(outcome(*answer.Change))
	if err != nil {
		s.con.say("its state since then is unknown: %s", s.reason(err))
	}
	if answer.Change.Effective {
		return answer, exitDone
	}
	return answer, exitNotEffective
}

// poll repeats the request until the change is effective, or the deadline or ctx ends. The change
// has been made, so poll continues if the key API is unavailable. It ends with an error if the key
// API rejects the request, or is still unavailable at the end.
func poll(
	ctx context.Context, answer operatorapi.Answer, deadline time.Time,
	request func(context.Context, time.Duration) (operatorapi.Answer, error), report func(operatorapi.Change, error),
) (operatorapi.Answer, error) {
	var lastErr error
	for !answer.Change.Effective && ctx.Err() == nil {
		wait := min(step, time.Until(deadline))
		if wait <= 0 {
			break
		}
		report(*answer.Change, lastErr)
		pause := time.After(wait) // for a key API that responds sooner
		bounded, cancel := context.WithDeadline(ctx, deadline.Add(step))
		later, err := request(bounded, wait)
		cancel()
		switch {
		case err == nil:
			answer, lastErr = answer.WithChange(later), nil
		case rejected(err):
			return answer, err
		case ctx.Err() == nil:
			lastErr = err
		}
		if !answer.Change.Effective {
			select {
			case <-pause:
			case <-ctx.Done():
			}
		}
	}
	return answer, lastErr
}

// rejected reports whether a retry is useless.
func rejected(err error) bool {
	failure, ok := errors.AsType[*operatorapi.Error](err)
	return ok && failure.Status >= http.StatusBadRequest && failure.Status < http.StatusInternalServerError
}

// outcome is the state of a change in one line.
func outcome(c operatorapi.Change) string {
	if c.Effective {
		return fmt.Sprintf("effective: no sidecar can act on the old fact any more (revision %d)", c.Revision)
	}
	return "not yet effective: " + remaining(c) + by(c)
}

func remaining(c operatorapi.Change) string {
	const most = 5
	names := c.WaitingFor
	if len(names) == 0 {
		// After an older store was restored, sidecars may exist that it does not have on record.
		return fmt.Sprintf("revision %d waits until sidecars that are not on record can no longer act", c.Revision)
	}
	names = names[:min(most, len(names))]
	more := ""
	if rest := c.Remaining() - len(names); rest > 0 { // the API names at most 100
		more = fmt.Sprintf(" and %d more", rest)
	}
	return fmt.Sprintf("revision %d waits for %s%s", c.Revision, visible(strings.Join(names, ", ")), more)
}

func by(c operatorapi.Change) string {
	if c.EffectiveBy == nil {
		return ""
	}
	return "; effective by " + moment(c.EffectiveBy) + " at the latest"
}

// progress shows a state. On a terminal it overwrites one line, else it prints a line for each new state.
type progress struct {
	con  console
	last string
}

// waiting is the state of a change that is not yet effective.
func (p *progress) waiting(c operatorapi.Change) string {
	if p.con.terminal && c.EffectiveBy != nil {
		left := max(0, time.Until(*c.EffectiveBy)).Round(time.Second)
		return fmt.Sprintf("%s; effective in %v at the latest", remaining(c), left)
	}
	return remaining(c) + by(c)
}

func (p *progress) show(state string) {
	if state == p.last {
		return
	}
	p.last = state
	if !p.con.terminal {
		p.con.say("%s", state)
		return
	}
	const most = 70 // characters: a line that wraps cannot be overwritten
	if runes := []rune(state); len(runes) > most {
		state = string(runes[:most-1]) + "…"
	}
	_, _ = fmt.Fprintf(p.con.err, "\r\x1b[Kkeyctl: %s", state)
}

// end prints the final state.
func (p *progress) end(state string) {
	if p.con.terminal && p.last != "" {
		_, _ = fmt.Fprint(p.con.err, "\r\x1b[K")
	}
	p.con.say("%s", state)
}
