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
	// settled is how long a sidecar may take to be back at its key API, beside a poll that
	// was lost and waits up to a third of the lease: the poll's grace, 2 s to the next one, and
	// a start.
	settled = 4 * time.Second
)

// plan is one world and what happens in it.
type plan struct {
	seed      uint64
	rate      float64 // of the key API's clock, by the sidecars'
	sidecars  int
	lease     time.Duration
	retention time.Duration
	times     keycache.Times
	steps     []step
}

// step is one thing that happens, after a pause.
type step struct {
	what  action
	n     int
	pause time.Duration
}

type action int

const (
	checkSome action = iota
	checkAll
	train // of checks, for some seconds
	mutate
	looking
	weatherOfOne
	weatherOfAll
	stopping
	killing
	outage
	backingUp
	restoring
	restoringBare
	newSidecar
	lossOfSidecar
	flurry
	brink
	comingBack
	coldStart
	delayedFirst
	goodbye
	copying
	calming
	actions // how many there are
)

// GoString is how a failed plan is shown.
func (p plan) GoString() string {
	var text strings.Builder
	fmt.Fprintf(&text, "seed %d, rate %.4f, %d sidecars, lease %s, retention %s, %+v", p.seed, p.rate, p.sidecars, p.lease, p.retention, p.times)
	for _, s := range p.steps {
		fmt.Fprintf(&text, "\n  after %s: %s(%d)", s.pause, actionNames[s.what], s.n)
	}
	return text.String()
}

var actionNames = [actions]string{
	"check some", "check all", "train", "mutate", "look", "weather of one", "weather of all", "stop", "kill",
	"outage", "back up", "restore", "restore without epoch", "new sidecar", "lose sidecar", "flurry", "brink", "come back",
	"cold start behind an intermediary", "delayed first poll", "goodbye overtaken", "copy a sidecar", "calm",
}

// weights say how often each action comes.
var weights = [actions]int{
	checkSome: 20, checkAll: 10, train: 8, mutate: 25, looking: 8, weatherOfOne: 12, weatherOfAll: 3, stopping: 1, killing: 1,
	outage: 2, backingUp: 1, restoring: 1, restoringBare: 1, newSidecar: 1, lossOfSidecar: 2, flurry: 4, brink: 3, comingBack: 2,
	coldStart: 2, delayedFirst: 2, goodbye: 2, copying: 2, calming: 2,
}

// Both clocks may be 1% off.
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

// run makes a plan happen in a bubble, and returns what went wrong.
func run(t *testing.T, p plan) (operations int, problems []string) {
	folder := t.TempDir()
	synctest.Test(t, func(*testing.T) {
		w := newWorld(folder, p)
		for _, s := range p.steps {
			pass(s.pause)
			w.do(s)
			if !w.right() {
				break
			}
		}
		if w.right() {
			w.calm()
			w.settle()
		}
		w.close()
		operations, problems = w.operations+len(p.steps), w.problems
	})
	return operations, problems
}

// settle waits until every change must be effective, and sees that it is.
func (w *world) settle() {
	pass((w.keyd.settings.Lease + longestMaxStale) * 21 / 20)
	w.look()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.changes {
		if !c.told && !c.lost {
			w.wrong("revision %d is not effective though every sidecar is there", c.revision)
		}
	}
}

func (w *world) do(s step) {
	switch s.what {
	case checkSome:
		w.some(s.n)
	case checkAll:
		w.everything(false)
	case train:
		for i := range 40 + 3*s.n {
			w.some(12)
			pass(time.Duration(i%20) * time.Millisecond)
		}
	case mutate:
		w.mutate(s.n % 8)
	case looking:
		w.look()
	case weatherOfOne, weatherOfAll:
		for i, sc := range w.sidecars {
			if s.what == weatherOfAll || s.n%len(w.sidecars) == i {
				sc.link.set(weather(s.n) % weathers)
			}
		}
	case stopping:
		w.restart(true, s.pause, func() {})
	case killing:
		w.restart(false, s.pause, func() {})
	case outage:
		w.must(w.keyd.stop(s.n%2 == 0))
		for range 10 + s.n {
			w.some(12)
			pass(100 * time.Millisecond)
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
				lost.leave()
			}
			w.addSidecar()
		}
	case flurry:
		w.flurry(s.n)
	case brink:
		w.brink(s.n)
	case comingBack:
		w.comeBack(s.n)
	case coldStart:
		w.coldStartBehindIntermediary(s.n)
	case delayedFirst:
		w.delayedFirstPoll(s.n)
	case goodbye:
		w.goodbyeOvertaken(s.n)
	case copying:
		w.copySidecar(s.n)
	case calming:
		w.calm()
	case actions:
	}
}

// model runs so many random plans of the seed.
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

var worlds = flag.Int("worlds", 3, "how many worlds TestModel makes")

// TestModel drives real caches and the real change log through random plans, beside a
// simple truth of what is so. A few seconds here; the long run is TestModelLong.
func TestModel(t *testing.T) {
	t.Logf("%d operations", model(t, 1, *worlds, 150))
}

// TestModelFindsFirstVersionFaults has the model show that it can produce what broke the first
// version: each fault fails in its scene, and the scene passes without it.
func TestModelFindsFirstVersionFaults(t *testing.T) {
	const stale, left = "is over", "has left"
	for _, tt := range []struct {
		fault string
		scene action
		want  string
	}{
		{ttlMode, coldStart, stale},
		{headAcknowledges, delayedFirst, stale},
		{arrivalOrder, copying, stale},
		{goodbyeForgets, goodbye, left},
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
				t.Errorf("the fault is not found: %q", problems)
			}
		})
	}
}
