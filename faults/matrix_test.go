package faults_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// The rows of the deny table that the cells expect, and the allow.
var (
	allowed     = testbed.Answer{Reason: "ok", Status: 200}
	revoked     = testbed.Answer{Reason: "key_revoked", Status: 401}
	unknown     = testbed.Answer{Reason: "key_unknown", Status: 401}
	unavailable = testbed.Answer{Reason: "unavailable", Status: 503}
	rateLimited = testbed.Answer{Reason: "rate_limited", Status: 429}
)

// cell is a column of the matrix: a credential, and what is to be answered.
type cell struct {
	name   string
	secret credential.Secret
	// without a fault, with one that nothing passes, and when the stale time is over
	healthy, island, over testbed.Answer
}

// Times of the matrix: short, but the stale time leaves a slow machine the time to
// look at all cells before it is over.
const (
	matrixLease    = time.Second
	matrixConfirm  = 300 * time.Millisecond
	matrixMaxStale = 8 * time.Second
)

// line is what one fault has shown.
type line struct {
	fault           string
	answers         []string // by cell, during the fault
	later           string   // of all cells, once the stale time is over
	fastest, median time.Duration
	answering       [2]time.Duration // from the fault's end to the first answer about a cold key
	following       [2]time.Duration // from the fault's end to a lease
	checks          int64
}

// TestMatrix: every fault on the way to the key API, for every kind of credential.
func TestMatrix(t *testing.T) {
	s := newSite(t, testbed.Config{"lease": milliseconds(matrixLease)})
	var mu sync.Mutex
	lines := map[string]line{}
	all := faults()
	// Side by side, however few processors there are: a row mostly waits.
	var rows sync.WaitGroup
	for i, f := range all {
		rows.Go(func() {
			t.Run(f.name, func(t *testing.T) {
				r := newRow(t, s, fmt.Sprintf("row%d", i), f)
				l := r.run()
				mu.Lock()
				defer mu.Unlock()
				lines[f.name] = l
			})
		})
	}
	rows.Wait()
	t.Log(table(all, lines))
}

// row is one fault with a sidecar of its own.
type row struct {
	*site
	t      *testing.T
	fault  fault
	road   *road
	authzd *testbed.Process
	checks *testbed.CheckClient
	cells  []cell
	count  atomic.Int64
}

func newRow(t *testing.T, s *site, name string, f fault) *row {
	t.Helper()
	r := &row{site: s, t: t, fault: f, road: newRoad(t, s)}
	r.authzd = must(s.StartAuthzd(t.Context(), name, testbed.Config{
		"key_api": testbed.Config{"url": r.road.url, "token_file": "key-api.token"},
		"cache":   testbed.Config{"confirm_after": milliseconds(matrixConfirm), "max_stale": milliseconds(matrixMaxStale)},
	}))(t)
	r.checks = must(s.CheckClient(name))(t)
	t.Cleanup(r.checks.Close)

	bad := must(s.MintKey(t.Context(), s.account))(t)
	must(s.Operators.Do(t.Context(), operatorapi.RevokeKey(bad.ID)))(t)
	r.cells = []cell{
		{"cold key", must(s.MintKey(t.Context(), s.account))(t).Secret, allowed, unavailable, unavailable},
		{"cached good", must(s.MintKey(t.Context(), s.account))(t).Secret, allowed, allowed, unavailable},
		{"cached revoked", bad.Secret, revoked, revoked, unavailable},
		{"unknown key", s.UnknownKey(), unknown, unavailable, unavailable},
		{"session", must(s.MintSession(t.Context(), s.account))(t), allowed, allowed, unavailable},
	}
	return r
}

const coldKey = 0 // index of the cell that no cache knows when the fault begins

func (r *row) run() line {
	l := line{fault: r.fault.name}
	enough := int64((matrixChecks + len(faults()) - 1) / len(faults()))
	defer r.watch()()
	// In turns an outage that is shorter than the stale time, and one that is longer.
	const tries = 5 // of each, on a machine that is too slow to see all of it
	for cycle := 0; cycle < 2 || r.count.Load() < enough; cycle++ {
		for unseen := 0; !r.cycle(&l, cycle%2); unseen++ {
			if unseen == tries {
				r.t.Fatalf("%s: the sidecar was never long enough in the mode that was looked for", r.fault.name)
			}
		}
	}
	l.checks = r.count.Load()
	return l
}

// cycle is one outage, and the way back from it. It tells whether all of it was seen.
func (r *row) cycle(l *line, longer int) (seen bool) {
	r.t.Helper()
	r.settle()
	began := time.Now()
	r.fault.begin(r.t, r.road)
	if r.fault.passes {
		seen = r.during(l, synced, func(c cell) testbed.Answer { return c.healthy })
		r.recover(l, longer)
		return seen
	}
	eventually(r.t, r.fault.name, func() error { return metricIs(r.t, r.authzd, synced, 0) })
	// Until nothing that was learned before the fault is fresh.
	eventually(r.t, "time passes", func() error {
		if time.Since(began) < matrixConfirm {
			return errors.New("not yet")
		}
		return nil
	})
	seen = r.during(l, degraded, func(c cell) testbed.Answer { return c.island })
	r.failsFast(l)
	if longer > 0 {
		r.waitFor(cold)
		seen = r.during(l, cold, func(c cell) testbed.Answer { return c.over }) && seen
	}
	r.recover(l, longer)
	return seen
}

// settle makes all cells but the cold one known, and that one new.
func (r *row) settle() {
	r.t.Helper()
	r.waitFor(synced)
	r.cells[coldKey].secret = must(r.MintKey(r.t.Context(), r.account))(r.t).Secret
	for _, c := range r.cells[1:] {
		r.becomes(c, c.healthy)
	}
}

func (r *row) waitFor(mode string) {
	r.t.Helper()
	eventually(r.t, r.fault.name, func() error { return metricIs(r.t, r.authzd, mode, 1) })
}

// becomes waits until a cell's answer is the one that is wanted.
func (r *row) becomes(c cell, want testbed.Answer) {
	r.t.Helper()
	eventually(r.t, c.name, func() error {
		got, err := r.ask(c)
		if err == nil && got != want {
			err = fmt.Errorf("%v, want %v", got, want)
		}
		return err
	})
}

// ask makes one check. Whatever happens, its answer must not be a wrong one.
func (r *row) ask(c cell) (testbed.Answer, error) {
	r.count.Add(1)
	got, err := r.checks.CheckAsEnvoy(context.Background(), c.secret)
	if err == nil && got != c.healthy && got != unavailable && (c.healthy != unknown || got != rateLimited) {
		r.t.Errorf("%s, %s: %v", r.fault.name, c.name, got)
	}
	return got, err
}

func (r *row) isIn(mode string) bool { return metricIs(r.t, r.authzd, mode, 1) == nil }

// during holds every cell to its answer while the sidecar is in one mode. It tells
// whether the mode lasted until all had been asked about.
func (r *row) during(l *line, mode string, want func(cell) testbed.Answer) bool {
	r.t.Helper()
	seen := make([]string, len(r.cells))
	for i, c := range r.cells {
		var got testbed.Answer
		lasted := true
		eventually(r.t, c.name, func() (err error) {
			if lasted = r.isIn(mode); !lasted {
				return nil
			}
			if got, err = r.ask(c); err != nil {
				return err // the sidecar had no time to answer
			}
			if got == unavailable && r.fault.passes {
				return errors.New("the key API had no time to answer")
			}
			lasted = r.isIn(mode)
			return nil
		})
		if !lasted {
			return false
		}
		if got != want(c) {
			r.t.Errorf("%s, %s, %s: %v, want %v", r.fault.name, c.name, mode, got, want(c))
		}
		seen[i] = fmt.Sprintf("%d %s", got.Status, got.Reason)
	}
	if mode == cold {
		l.later = strings.Join(slices.Compact(seen), ", ")
	} else {
		l.answers = seen
	}
	return true
}

// failsFast holds that an uncached key gets its 503 at once while the key API counts
// as down: half of the denials within 5 ms by the sidecar's own clock, on however
// loaded a machine. What the client sees is measured too.
func (r *row) failsFast(l *line) {
	r.t.Helper()
	if r.fault.asked {
		return
	}
	eventually(r.t, r.fault.name, func() error {
		_, err := r.ask(r.cells[coldKey])
		return errors.Join(err, metricIs(r.t, r.authzd, down, 1))
	})
	const (
		fast = `phantom_authz_check_duration_seconds_bucket{decision="deny",le="0.005"}`
		all  = `phantom_authz_check_duration_seconds_count{decision="deny"}`
	)
	metric := func(series string) float64 { return must(r.authzd.Metric(r.t.Context(), series))(r.t) }
	fastBefore, allBefore := metric(fast), metric(all)
	var took []time.Duration
	for range 50 {
		began := time.Now()
		got, err := r.ask(r.cells[coldKey])
		if err != nil {
			continue
		}
		if got != unavailable {
			r.t.Errorf("%s: %v", r.fault.name, got)
		}
		took = append(took, time.Since(began))
	}
	if n, of := metric(fast)-fastBefore, metric(all)-allBefore; n < of/2 {
		r.t.Errorf("%s: only %v of %v denials within 5 ms", r.fault.name, n, of)
	}
	if slices.Sort(took); len(took) > 0 {
		l.fastest, l.median = took[0], took[len(took)/2]
	}
}

// recover ends the fault and measures how long it takes until all is well.
func (r *row) recover(l *line, cycle int) {
	r.t.Helper()
	r.fault.end(r.t, r.road)
	ended := time.Now()
	r.becomes(r.cells[coldKey], allowed)
	l.answering[cycle] = time.Since(ended)
	r.waitFor(synced)
	l.following[cycle] = time.Since(ended)
	for _, c := range r.cells {
		r.becomes(c, c.healthy)
	}
	eventually(r.t, r.fault.name, func() error { return metricIs(r.t, r.authzd, down, 0) })
}

// watch asks about all cells beside the row's own checks, in the long run without a
// pause. What it returns ends it.
func (r *row) watch() (stop func()) {
	over := make(chan struct{})
	var watching sync.WaitGroup
	pace := 20 * time.Millisecond
	if long {
		pace = time.Microsecond
	}
	cells := r.cells[1:] // the cold one must be left alone
	for _, c := range cells {
		watching.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for !closed(over) {
				_, _ = r.ask(c) // which says itself what is wrong
				<-tick.C
			}
		})
	}
	return func() { close(over); watching.Wait() }
}

// table writes what was seen as markdown.
func table(all []fault, lines map[string]line) string {
	var b strings.Builder
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }
	b.WriteString("\n| fault | cold key | cached good | cached revoked | unknown key | session | all, after max_stale | " +
		"503 of a cold key, ms (best, median) | cold key answered again, ms (short, long outage) | lease again, ms | checks |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|\n")
	total := int64(0)
	for _, f := range all {
		l, ok := lines[f.name]
		if !ok {
			continue
		}
		total += l.checks
		fmt.Fprintf(&b, "| %s | %s | %s | %s, %s | %s, %s | %s, %s | %d |\n", l.fault, strings.Join(l.answers, " | "), l.later,
			ms(l.fastest), ms(l.median), ms(l.answering[0]), ms(l.answering[1]), ms(l.following[0]), ms(l.following[1]), l.checks)
	}
	fmt.Fprintf(&b, "\n%d checks, none wrong unless said.\n", total)
	return b.String()
}
