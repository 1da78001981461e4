package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

const (
	// firstWait is how long the change's own request waits. Mostly every sidecar
	// acknowledges within milliseconds, and that is all; else a minted key should not
	// stay unprinted for long, nor the person without news.
	firstWait = time.Second
	// step is how often the state is looked at after that. The API answers at once when
	// the change is effective, so this costs no time.
	step = time.Second
)

// await waits until the change in the answer is effective or -wait is over, and tells how
// it goes. It returns the answer with the last that is known of the change.
func (s *session) await(ctx context.Context, answer operatorapi.Answer, began time.Time) (operatorapi.Answer, int) {
	news := progress{con: s.con}
	revision := answer.Change.Revision
	ask := func(ctx context.Context, wait time.Duration) (operatorapi.Answer, error) {
		return s.client.Do(ctx, operatorapi.Revision(revision).Waiting(wait))
	}
	answer, err := follow(ctx, answer, began.Add(s.opts.waits), ask, func(c operatorapi.Change, trouble error) {
		if trouble != nil {
			news.show("trying again: " + s.reason(trouble))
			return
		}
		news.show(news.waiting(c))
	})
	news.end(outcome(*answer.Change))
	if err != nil {
		s.con.say("how far it has come since cannot be learnt: %s", s.reason(err))
	}
	if answer.Change.Effective {
		return answer, exitDone
	}
	return answer, exitNotEffective
}

// follow asks again and again until the change is effective, the deadline has come or the
// context has ended. The change has been made, so an outage of the key API does not end
// it; a refusal does, and is the error.
func follow(
	ctx context.Context, answer operatorapi.Answer, deadline time.Time,
	ask func(context.Context, time.Duration) (operatorapi.Answer, error), tell func(operatorapi.Change, error),
) (operatorapi.Answer, error) {
	var trouble error
	for !answer.Change.Effective && ctx.Err() == nil {
		wait := min(step, time.Until(deadline))
		if wait <= 0 {
			break
		}
		tell(*answer.Change, trouble)
		// A key API that answers sooner than it was asked to must not be asked in a hurry.
		pause := time.NewTimer(wait)
		asking, cancel := context.WithDeadline(ctx, deadline.Add(step))
		later, err := ask(asking, wait)
		cancel()
		switch {
		case err == nil:
			answer, trouble = answer.WithChange(later), nil
		case refused(err):
			return answer, err
		case ctx.Err() == nil:
			trouble = err
		}
		if !answer.Change.Effective {
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
		pause.Stop()
	}
	return answer, trouble
}

// refused tells whether asking again is of no use.
func refused(err error) bool {
	var failure *operatorapi.Error
	return errors.As(err, &failure) && failure.Status >= http.StatusBadRequest && failure.Status < http.StatusInternalServerError
}

// outcome is how far a change has come, in a line.
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
		// After an older store was put back there may be sidecars that it does not know.
		return fmt.Sprintf("revision %d waits for the time of sidecars that are not on record", c.Revision)
	}
	names = names[:min(most, len(names))]
	more := ""
	if rest := c.Remaining() - len(names); rest > 0 { // the API names 100 at most
		more = fmt.Sprintf(" and %d more", rest)
	}
	return fmt.Sprintf("revision %d waits for %s%s", c.Revision, visible(strings.Join(names, ", ")), more)
}

func by(c operatorapi.Change) string {
	if c.EffectiveBy == nil {
		return ""
	}
	return "; certain by " + moment(c.EffectiveBy)
}

// progress shows a state while it lasts: on a terminal in one line that is written over,
// else in a line for each new state.
type progress struct {
	con  console
	last string
}

// waiting is the state of a change that is waited for.
func (p *progress) waiting(c operatorapi.Change) string {
	if p.con.terminal && c.EffectiveBy != nil {
		left := max(0, time.Until(*c.EffectiveBy)).Round(time.Second)
		return fmt.Sprintf("%s; certain in %v", remaining(c), left)
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
	const most = 70 // a line that wraps cannot be written over
	if columns(state) > most {
		for columns(state) >= most {
			_, last := utf8.DecodeLastRuneInString(state)
			state = state[:len(state)-last]
		}
		state += "…"
	}
	_, _ = fmt.Fprintf(p.con.err, "\r\x1b[Kkeyctl: %s", state)
}

// end replaces what is shown by the last line.
func (p *progress) end(state string) {
	if p.con.terminal && p.last != "" {
		_, _ = fmt.Fprint(p.con.err, "\r\x1b[K")
	}
	p.con.say("%s", state)
}
