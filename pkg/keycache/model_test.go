package keycache_test

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/keycache"
)

const (
	longestMaxStale = 5 * time.Second
	// recoveryTime bounds how long a sidecar takes to recover, beyond a poll that was lost and waits up to
	// a third of the lease: the poll's slack, 2 s to the next poll, and a start.
	recoveryTime = 4 * time.Second
)

// plan is one world and its steps.
type plan struct {
	seed      uint64
	rate      float64 // of the key API's clock, relative to the sidecars'
	sidecars  int
	lease     time.Duration
	retention time.Duration
	times     keycache.Times
	steps     []step
}

// step is one action after a pause.
type step struct {
	what  action
	n     int
	pause time.Duration
}

type action int

const (
	checkSome action = iota
	checkAll
	stream // checks for some seconds
	mutate
	progress
	conditionOfOne
	conditionOfAll
	stopping
	killing
	outage
	backingUp
	restoring
	restoringBare
	newSidecar
	lossOfSidecar
	resolveRace
	expiry
	rejoining
	coldStart
	delayedFirst
	deregistering
	copying
	converging
	actions // number of actions
)

// GoString implements fmt.GoStringer: rapid prints a failed plan with it.
func (p plan) GoString() string {
	var text strings.Builder
	fmt.Fprintf(&text, "seed %d, rate %.4f, %d sidecars, lease %s, retention %s, %+v", p.seed, p.rate, p.sidecars, p.lease, p.retention, p.times)
	for _, s := range p.steps {
		fmt.Fprintf(&text, "\n  after %s: %s(%d)", s.pause, actionNames[s.what], s.n)
	}
	return text.String()
}

var actionNames = [actions]string{
	"check some", "check all", "stream", "mutate", "progress", "condition of one", "condition of all", "stop", "kill",
	"outage", "back up", "restore", "restore without epoch", "new sidecar", "lose sidecar", "changes during resolves", "expiry", "rejoin",
	"cold start behind an intermediary", "delayed first poll", "deregistration overtaken", "copy a sidecar", "converge",
}

// weights are the frequencies of the actions.
var weights = [actions]int{
	checkSome: 20, checkAll: 10, stream: 8, mutate: 25, progress: 8, conditionOfOne: 12, conditionOfAll: 3, stopping: 1, killing: 1,
	outage: 2, backingUp: 1, restoring: 1, restoringBare: 1, newSidecar: 1, lossOfSidecar: 2, resolveRace: 4, expiry: 3, rejoining: 2,
	coldStart: 2, delayedFirst: 2, deregistering: 2, copying: 2, converging: 2,
}

// Each clock may be 1% off.
var rates = []float64{1, 1.01 / 0.99, 0.99 / 1.01, 1.01, 0.99, 1.003}

func millis(list ...int) *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.SampledFrom(list), func(ms int) time.Duration { return time.Duration(ms) * time.Millisecond })
}

func plans(steps int) *rapid.Generator[plan] {
	var bag []action
	for a, n := range weights {
		for range n {
			bag = append(bag, action(a))
		}
	}
	aStep := rapid.Custom(func(t *rapid.T) step {
		return step{
			what:  rapid.SampledFrom(bag).Draw(t, "what"),
			n:     rapid.IntRange(0, 99).Draw(t, "n"),
			pause: millis(0, 0, 0, 1, 3, 10, 30, 100, 300, 1000, 2500).Draw(t, "pause"),
		}
	})
	return rapid.Custom(func(t *rapid.T) plan {
		return plan{
			seed:      rapid.Uint64().Draw(t, "seed"),
			rate:      rapid.SampledFrom(rates).Draw(t, "rate"),
			sidecars:  rapid.IntRange(1, 3).Draw(t, "sidecars"),
			lease:     millis(1000, 3000, 10_000).Draw(t, "lease"),
			retention: millis(1000, 3_600_000).Draw(t, "retention"),
			times: keycache.Times{
				MaxAge:       millis(4000, 60_000).Draw(t, "max age"),
				ConfirmAfter: millis(500, 3000).Draw(t, "confirm after"),
				MaxStale:     millis(0, 1000, 5000).Draw(t, "max stale"),
			},
			steps: rapid.SliceOfN(aStep, steps/2, steps).Draw(t, "steps"),
		}
	})
}

// run runs a plan in a bubble and returns the violations.
func run(t *testing.T, p plan) (operations int, problems []string) {
	folder := t.TempDir()
	synctest.Test(t, func(*testing.T) {
		w := newWorld(folder, p)
		for _, s := range p.steps {
			advance(s.pause)
			w.do(s)
			if !w.ok() {
				break
			}
		}
		if w.ok() {
			w.converge()
			w.checkEffective()
		}
		w.close()
		operations, problems = w.operations+len(p.steps), w.problems
	})
	return operations, problems
}

// checkEffective waits until every change must be effective.
func (w *world) checkEffective() {
	advance((w.keyd.settings.Lease + longestMaxStale) * 21 / 20)
	w.checkPending()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.changes {
		if !c.effective && !c.lost {
			w.report("revision %d is not effective while every sidecar is reachable", c.revision)
		}
	}
}

func (w *world) do(s step) {
	switch s.what {
	case checkSome:
		w.checkSome(s.n)
	case checkAll:
		w.checkAll(false)
	case stream:
		for i := range 40 + 3*s.n {
			w.checkSome(12)
			advance(time.Duration(i%20) * time.Millisecond)
		}
	case mutate:
		w.mutate(s.n % 8)
	case progress:
		w.checkPending()
	case conditionOfOne, conditionOfAll:
		for i, sc := range w.sidecars {
			if s.what == conditionOfAll || s.n%len(w.sidecars) == i {
				sc.link.set(condition(s.n) % conditions)
			}
		}
	case stopping:
		w.restart(true, s.pause, func() {})
	case killing:
		w.restart(false, s.pause, func() {})
	case outage:
		w.must(w.keyd.stop(s.n%2 == 0))
		for range 10 + s.n {
			w.checkSome(12)
			advance(100 * time.Millisecond)
		}
		w.must(w.keyd.start())
	case backingUp:
		w.restart(true, 0, w.backUp)
	case restoring, restoringBare:
		w.restart(s.n%2 == 0, s.pause, func() { w.restore(s.what == restoring) })
	case newSidecar:
		if len(w.sidecars) < 3 {
			w.addSidecar()
		}
	case lossOfSidecar:
		if n := len(w.sidecars); n > 0 {
			lost := w.sidecars[s.n%n]
			w.sidecars = append(w.sidecars[:s.n%n:s.n%n], w.sidecars[s.n%n+1:]...)
			if s.n%3 == 0 {
				lost.kill()
			} else {
				lost.shutdown()
			}
			w.addSidecar()
		}
	case resolveRace:
		w.changesDuringResolves(s.n)
	case expiry:
		w.expiry(s.n)
	case rejoining:
		w.rejoin(s.n)
	case coldStart:
		w.coldStartBehindIntermediary(s.n)
	case delayedFirst:
		w.delayedFirstPoll(s.n)
	case deregistering:
		w.deregistrationOvertaken(s.n)
	case copying:
		w.copySidecar(s.n)
	case converging:
		w.converge()
	case actions:
	}
}

// model runs random plans of a seed.
func model(t *testing.T, seed, worlds, steps int) (operations int) {
	t.Helper()
	for name, value := range map[string]string{"rapid.seed": strconv.Itoa(seed), "rapid.checks": strconv.Itoa(worlds), "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		n, problems := run(t, plans(steps).Draw(rt, "plan"))
		operations += n
		if len(problems) > 0 {
			rt.Fatal(strings.Join(problems, "\n"))
		}
	})
	return operations
}

var worlds = flag.Int("worlds", 3, "number of plans that TestModel runs")

// TestModel runs random plans with real caches and a real key API, and compares every check with
// the facts. TestModelLong runs more of them.
func TestModel(t *testing.T) {
	t.Logf("%d operations", model(t, 1, *worlds, 150))
}

// The model detects known faults: each fails in its scene, which passes without it.
func TestModelFindsKnownFaults(t *testing.T) {
	const stale, waiting = "may answer", "is deregistered"
	for _, tt := range []struct {
		fault string
		scene action
		want  string
	}{
		{ttlMode, coldStart, stale},
		{headAcknowledges, delayedFirst, stale},
		{arrivalOrder, copying, stale},
		{deregistrationForgets, deregistering, waiting},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			p := plan{
				seed: 1, rate: 1, sidecars: 2, lease: 3 * time.Second, retention: time.Hour,
				times: keycache.Times{MaxAge: time.Minute, ConfirmAfter: 3 * time.Second, MaxStale: 5 * time.Second},
			}
			for n := range 6 {
				p.steps = append(p.steps, step{what: tt.scene, n: n * 7}, step{what: checkAll, pause: time.Second})
			}
			if _, problems := run(t, p); len(problems) > 0 {
				t.Errorf("without the fault: %s", strings.Join(problems, "\n"))
			}
			*fault = tt.fault
			defer func() { *fault = "" }()
			if _, problems := run(t, p); !strings.Contains(strings.Join(problems, "\n"), tt.want) {
				t.Errorf("the fault is not detected: %q", problems)
			}
		})
	}
}
