package faults_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// The expected answers.
var (
	allowed     = testbed.Answer{Reason: "ok", Status: 200}
	revoked     = testbed.Answer{Reason: "key_revoked", Status: 401}
	unknown     = testbed.Answer{Reason: "key_unknown", Status: 401}
	unavailable = testbed.Answer{Reason: "unavailable", Status: 503}
	rateLimited = testbed.Answer{Reason: "rate_limited", Status: 429}
)

// cell is a column of the matrix: a credential and the expected answers.
type cell struct {
	name   string
	secret credential.Secret
	// without a fault, during a fault, and once max_stale is over
	healthy, degraded, expired testbed.Answer
}

// Times of the matrix. max_stale is long enough to check all cells on a slow machine.
const (
	matrixLease    = time.Second
	matrixConfirm  = 300 * time.Millisecond
	matrixMaxStale = 8 * time.Second
)

// faultResult is the result of one fault.
type faultResult struct {
	fault           string
	answers         []string // by cell, during the fault
	expired         string   // of all cells, once max_stale is over
	fastest, median time.Duration
	resolving       [2]time.Duration // from the end of the fault to the first answer for an uncached key
	polling         [2]time.Duration // from the end of the fault to a lease
	checks          int64
}

// TestMatrix checks every type of credential during every fault of the route to the key API.
func TestMatrix(t *testing.T) { testMatrix(t, throughAuthzd, faults(), matrixChecks) }

// TestMatrixWithTheModule is TestMatrix behind an Envoy with the module.
func TestMatrixWithTheModule(t *testing.T) {
	all := faults()
	if !long {
		all = slices.DeleteFunc(all, func(f fault) bool { return !slices.Contains(moduleFaults, f.name) })
	}
	testMatrix(t, throughModule, all, matrixChecks/requestCost)
}

// moduleFaults are those of the short run with the module: one of each cause. Each starts an Envoy.
var moduleFaults = []string{"down", "slow", "truncated", "500", "hang"}

func testMatrix(t *testing.T, through front, all []fault, checks int) {
	t.Helper()
	s := newFixture(t, testbed.Config{"lease": milliseconds(matrixLease)})
	var mu sync.Mutex
	results := map[string]faultResult{}
	// The rows run in parallel, since they mostly wait.
	var rows sync.WaitGroup
	for i, f := range all {
		rows.Go(func() {
			t.Run(f.name, func(t *testing.T) {
				r := newRow(t, s, fmt.Sprintf("row%d", i), f, through)
				l := r.run(checks / len(all))
				mu.Lock()
				defer mu.Unlock()
				results[f.name] = l
			})
		})
	}
	rows.Wait()
	t.Log(table(all, results))
}

// A stopped keyd is as a fault of the route.
func TestFrozenKeyAPI(t *testing.T) {
	forEachFront(t, func(t *testing.T, through front) {
		s := newFixture(t, testbed.Config{"lease": milliseconds(matrixLease)})
		f := fault{
			name:  "frozen",
			begin: func(t *testing.T, _ *route) { t.Helper(); signal(t, s.keyd, syscall.SIGSTOP) },
			end:   func(t *testing.T, _ *route) { t.Helper(); signal(t, s.keyd, syscall.SIGCONT) },
		}
		l := newRow(t, s, "frozen", f, through).run(0)
		t.Log(table([]fault{f}, map[string]faultResult{f.name: l}))
	})
}

// row is one fault with its own sidecar.
type row struct {
	*fixture
	t      *testing.T
	fault  fault
	route  *route
	authzd *testbed.Process
	checks checker
	cells  []cell
	count  atomic.Int64
}

func newRow(t *testing.T, s *fixture, name string, f fault, through front) *row {
	t.Helper()
	r := &row{fixture: s, t: t, fault: f, route: newRoute(t, s)}
	r.authzd, r.checks = through.start(s, t, name, testbed.Config{
		"key_api": testbed.Config{"url": r.route.url, "token_file": "key-api.token"},
		"cache":   testbed.Config{"confirm_after": milliseconds(matrixConfirm), "max_stale": milliseconds(matrixMaxStale)},
	})

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

const coldKey = 0 // index of the cell that is not cached when the fault begins

// run checks at least so often.
func (r *row) run(atLeast int) faultResult {
	l := faultResult{fault: r.fault.name}
	defer r.checkInBackground()()
	// In turn, outages shorter and longer than max_stale.
	const tries = 5 // of each, if the machine is too slow to check all cells in time
	for cycle := 0; cycle < 2 || r.count.Load() < int64(atLeast); cycle++ {
		for retries := 0; !r.cycle(&l, cycle%2); retries++ {
			if retries == tries {
				r.t.Fatalf("%s: the sidecar left the mode too soon in all tries", r.fault.name)
			}
		}
	}
	l.checks = r.count.Load()
	return l
}

// cycle is one outage and the recovery. It reports whether all cells were checked in time.
func (r *row) cycle(l *faultResult, longer int) (complete bool) {
	r.t.Helper()
	r.prepare()
	began := time.Now()
	r.fault.begin(r.t, r.route)
	if r.fault.harmless {
		complete = r.during(l, synced, func(c cell) testbed.Answer { return c.healthy })
		r.recover(l, longer)
		return complete
	}
	eventually(r.t, r.fault.name, func() error { return metricIs(r.t, r.authzd, synced, 0) })
	// Wait until all cached credentials must be revalidated.
	eventually(r.t, "confirm_after", func() error {
		if time.Since(began) < matrixConfirm {
			return errors.New("not yet")
		}
		return nil
	})
	complete = r.during(l, degraded, func(c cell) testbed.Answer { return c.degraded })
	r.failsFast(l)
	if longer > 0 {
		r.waitFor(cold)
		complete = r.during(l, cold, func(c cell) testbed.Answer { return c.expired }) && complete
	}
	r.recover(l, longer)
	return complete
}

// prepare caches all cells but coldKey, and replaces that key.
func (r *row) prepare() {
	r.t.Helper()
	r.waitFor(synced)
	r.cells[coldKey].secret = must(r.MintKey(r.t.Context(), r.account))(r.t).Secret
	for _, c := range r.cells[1:] {
		r.awaitAnswer(c, c.healthy)
	}
}

func (r *row) waitFor(mode string) {
	r.t.Helper()
	eventually(r.t, r.fault.name, func() error { return metricIs(r.t, r.authzd, mode, 1) })
}

// awaitAnswer waits until a cell is answered as wanted.
func (r *row) awaitAnswer(c cell, want testbed.Answer) {
	r.t.Helper()
	eventually(r.t, c.name, func() error {
		got, err := r.check(c)
		if err == nil && got != want {
			err = fmt.Errorf("%v, want %v", got, want)
		}
		return err
	})
}

// check sends one check. Its answer must never be wrong.
func (r *row) check(c cell) (testbed.Answer, error) {
	r.count.Add(1)
	got, err := r.checks.CheckAsEnvoy(context.Background(), c.secret)
	if err == nil && got != c.healthy && got != unavailable && (c.healthy != unknown || got != rateLimited) {
		r.t.Errorf("%s, %s: %v", r.fault.name, c.name, got)
	}
	return got, err
}

func (r *row) isIn(mode string) bool { return metricIs(r.t, r.authzd, mode, 1) == nil }

// during checks that every cell is answered as wanted while the sidecar is in the mode. It reports whether the mode lasted until
// all cells were checked.
func (r *row) during(l *faultResult, mode string, want func(cell) testbed.Answer) bool {
	r.t.Helper()
	answers := make([]string, len(r.cells))
	for i, c := range r.cells {
		var got testbed.Answer
		lasted := true
		eventually(r.t, c.name, func() (err error) {
			if lasted = r.isIn(mode); !lasted {
				return nil
			}
			if got, err = r.check(c); err != nil {
				return err // the machine is too slow
			}
			if got == unavailable && r.fault.harmless {
				return errors.New("timeout of the key API")
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
		answers[i] = fmt.Sprintf("%d %s", got.Status, got.Reason)
	}
	if mode == cold {
		l.expired = strings.Join(slices.Compact(answers), ", ")
	} else {
		l.answers = answers
	}
	return true
}

// failsFast checks that uncached keys are answered with 503 without a request while the key API is down: the sidecar's metrics
// must have half of the denials below 5 ms. It also measures the latency of the client.
func (r *row) failsFast(l *faultResult) {
	r.t.Helper()
	if r.fault.reachable {
		return
	}
	eventually(r.t, r.fault.name, func() error {
		_, err := r.check(r.cells[coldKey])
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
		got, err := r.check(r.cells[coldKey])
		if err != nil {
			continue
		}
		if got != unavailable {
			r.t.Errorf("%s: %v", r.fault.name, got)
		}
		took = append(took, time.Since(began))
	}
	if n, of := metric(fast)-fastBefore, metric(all)-allBefore; n < of/2 {
		r.t.Errorf("%s: %v of %v denials within 5 ms", r.fault.name, n, of)
	}
	if slices.Sort(took); len(took) > 0 {
		l.fastest, l.median = took[0], took[len(took)/2]
	}
}

// recover ends the fault and measures the time until all cells are answered as without a fault.
func (r *row) recover(l *faultResult, cycle int) {
	r.t.Helper()
	r.fault.end(r.t, r.route)
	ended := time.Now()
	r.awaitAnswer(r.cells[coldKey], allowed)
	l.resolving[cycle] = time.Since(ended)
	r.waitFor(synced)
	l.polling[cycle] = time.Since(ended)
	for _, c := range r.cells {
		r.awaitAnswer(c, c.healthy)
	}
	eventually(r.t, r.fault.name, func() error { return metricIs(r.t, r.authzd, down, 0) })
}

// checkInBackground checks all cells but coldKey until the returned function is called, in the long run without pauses.
func (r *row) checkInBackground() (stop func()) {
	over := make(chan struct{})
	var checking sync.WaitGroup
	pace := 20 * time.Millisecond
	if long {
		pace = time.Microsecond
	}
	for _, c := range r.cells[1:] {
		checking.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for !closed(over) {
				_, _ = r.check(c)
				<-tick.C
			}
		})
	}
	return func() { close(over); checking.Wait() }
}

// table formats the results in Markdown.
func table(all []fault, results map[string]faultResult) string {
	var b strings.Builder
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }
	b.WriteString("\n| fault | cold key | cached good | cached revoked | unknown key | session | all, after max_stale | " +
		"503 of a cold key, ms (best, median) | cold key resolved again, ms (short, long outage) | new lease, ms | checks |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|\n")
	total := int64(0)
	for _, f := range all {
		l, ok := results[f.name]
		if !ok {
			continue
		}
		total += l.checks
		fmt.Fprintf(&b, "| %s | %s | %s | %s, %s | %s, %s | %s, %s | %d |\n", l.fault, strings.Join(l.answers, " | "), l.expired,
			ms(l.fastest), ms(l.median), ms(l.resolving[0]), ms(l.resolving[1]), ms(l.polling[0]), ms(l.polling[1]), l.checks)
	}
	fmt.Fprintf(&b, "\n%d checks.\n", total)
	return b.String()
}
