package faults_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// programs are built once.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

func built(t testing.TB) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "programs"); programs.err == nil {
			programs.err = testbed.Build(context.Background(), programs.dir, "cmd/keyd", "cmd/authzd", "internal/loadgen")
		}
		if programs.err == nil {
			programs.err = testbed.BuildModule(context.Background(), programs.dir)
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}

// fixture is the testbed of one test, with an account.
type fixture struct {
	*testbed.Testbed
	t       testing.TB
	account string
	keyd    *testbed.Process
}

// newFixture starts keyd in a new testbed. At the end of the test, all that its programs have shown and written is searched for the
// secrets that they have received.
func newFixture(t *testing.T, keyd testbed.Config) *fixture {
	t.Helper()
	return newFixtureWith(t, func(string) testbed.Config { return keyd })
}

// newFixtureWith is newFixture with a configuration that depends on the directory of the testbed.
func newFixtureWith(t *testing.T, keyd func(dir string) testbed.Config) *fixture {
	t.Helper()
	made, err := testbed.New(built(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &fixture{Testbed: made, t: t}
	t.Cleanup(func() {
		if err := made.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s.keyd = must(made.StartKeyd(t.Context(), keyd(made.Dir)))(t)
	s.account = must(made.CreateAccount(t.Context()))(t)
	return s
}

func (s *fixture) authzd(name string, differs testbed.Config) *testbed.Process {
	s.t.Helper()
	return must(s.StartAuthzd(s.t.Context(), name, differs))(s.t)
}

func (s *fixture) checks(name string) *testbed.CheckClient {
	s.t.Helper()
	c := must(s.CheckClient(name))(s.t)
	s.t.Cleanup(c.Close)
	return c
}

func (s *fixture) mint() testbed.Key {
	s.t.Helper()
	return must(s.MintKey(s.t.Context(), s.account))(s.t)
}

// must returns a function that returns the value, or fails the test with the error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// milliseconds formats a duration for a configuration.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// eventually waits until try succeeds.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	if err := testbed.Until(t.Context(), try); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// metricIs returns an error unless a metric of the process has the value.
func metricIs(t testing.TB, p *testbed.Process, series string, want float64) error {
	got, err := p.Metric(t.Context(), series)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %v, want %v", series, got, want)
	}
	return err
}

const (
	synced   = `phantom_authz_mode{mode="synced"}`
	degraded = `phantom_authz_mode{mode="degraded"}`
	cold     = `phantom_authz_mode{mode="cold"}`
	down     = `phantom_authz_key_api_down{by="resolve"}`
)
