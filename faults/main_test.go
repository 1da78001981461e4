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

// programs are built once for all tests.
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

func built(t *testing.T) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "programs"); programs.err == nil {
			programs.err = testbed.Build(context.Background(), programs.dir, "cmd/keyd", "cmd/authzd", "internal/loadgen")
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}

// site is a testbed.Testbed of one test, with an account.
type site struct {
	*testbed.Testbed
	t       testing.TB
	account string
	keyd    *testbed.Process
}

// newSite makes a site with a keyd. When the test is over, everything that the site's
// programs have shown and written is searched for the secrets that they were given.
func newSite(t *testing.T, keyd testbed.Config) *site {
	t.Helper()
	return newSiteWith(t, func(string) testbed.Config { return keyd })
}

// newSiteWith is newSite with a configuration of keyd that depends on the site's folder.
func newSiteWith(t *testing.T, keyd func(dir string) testbed.Config) *site {
	t.Helper()
	made, err := testbed.New(built(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Testbed: made, t: t}
	t.Cleanup(func() {
		if err := made.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s.keyd = must(made.StartKeyd(t.Context(), keyd(made.Dir)))(t)
	s.account = must(made.CreateAccount(t.Context()))(t)
	return s
}

func (s *site) authzd(name string, differs testbed.Config) *testbed.Process {
	s.t.Helper()
	return must(s.StartAuthzd(s.t.Context(), name, differs))(s.t)
}

func (s *site) checks(name string) *testbed.CheckClient {
	s.t.Helper()
	c := must(s.CheckClient(name))(s.t)
	s.t.Cleanup(c.Close)
	return c
}

func (s *site) mint() testbed.Key {
	s.t.Helper()
	return must(s.MintKey(s.t.Context(), s.account))(s.t)
}

// must turns a value with an error into the value, for a test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// milliseconds writes a duration as a configuration does.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// eventually waits until try succeeds.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	if err := testbed.Until(t.Context(), try); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// metricIs tells whether a process's metric has a value.
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
	down     = `phantom_authz_key_api_down`
)
