package envoy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// front is what checks the requests of an Envoy.
type front string

const (
	authzd front = "authzd" // through ext_authz
	module front = "module" // inside Envoy
)

// setup is a version of Envoy with a front.
type setup struct {
	version string
	front   front
}

func (s setup) String() string { return s.version + "-" + string(s.front) }

// setups returns all setups, the newest version first.
func setups() []setup {
	var all []setup
	for _, version := range versions() {
		all = append(all, setup{version, authzd}, setup{version, module})
	}
	return all
}

// versions are those to test: all, or only the binary that the variable ENVOY names.
func versions() []string {
	if os.Getenv("ENVOY") != "" {
		return []string{"ENVOY"}
	}
	return envoy.Versions()
}

const sameClusters = "the clusters of keyd and the upstream are the same: TestShippedFileIsRunning"

// oneFront lists the tests that run with one front only, and why. All others run with both.
var oneFront = map[string]struct {
	front front
	why   string
}{
	"TestCutConnectionToSidecar":             {authzd, "the module has no connection"},
	"TestSidecarKilled":                      {authzd, "the module ends with Envoy"},
	"TestSidecarFrozen":                      {authzd, "the module is frozen with Envoy"},
	"TestRestartCostsNoRequest":              {authzd, "the module restarts with Envoy"},
	"TestTakeoverCostsNoRequest":             {authzd, "the module has no socket"},
	"TestRollingRestartOfCentralAuthzd":      {authzd, "the module is in Envoy"},
	"TestRestartOfCentralAuthzdWithoutDelay": {authzd, "the module is in Envoy"},
	"TestNeverAllowedDetectsWrongAnswers":    {authzd, "the module has no answer that Envoy interprets"},
	"TestInvalidSidecarAnswersBecome503":     {authzd, "the module has no answer that Envoy interprets"},
	"TestSidecarReceivesItsHeadersOnly":      {authzd, "the module reads all headers"},
	"TestSidecarReceivesIdentityHeaders":     {authzd, "the module reads all headers"},
	"TestSidecarMayRemoveIdentityHeaders":    {authzd, "mutation rules are settings of ext_authz"},
	"TestUpdatesKeepTheCache":                {module, "authzd has no part in Envoy's updates"},
	"TestTraceOfEnvoy":                       {authzd, "the module has no spans"},
	"TestEnvoyCountsChecks":                  {module, "authzd counts on its own /metrics"},
	"TestInvalidConfigurationIsRefused":      {module, "authzd loads its own configuration"},
	"TestInvalidRouteIsRefused":              {module, "authzd denies with no_policy"},
	"TestCutConnectionToUpstream":            {authzd, sameClusters},
	"TestCutConnectionToKeydOverTLS":         {authzd, sameClusters},
	"TestIdleConnectionsAreProbed":           {authzd, sameClusters},
	"TestUpstreamAtEachLoopbackAddress":      {authzd, sameClusters},
	"TestOwnersTimeouts":                     {authzd, sameClusters},
	"TestOwnersAnswerWhileKeydIsFrozen":      {authzd, sameClusters},
	"TestListenerAcceptsBothFamilies":        {authzd, "the listener has no part in a check"},
	"TestMaxStreamDurationEndsWebSocket":     {authzd, "the bound has no part in a check"},
}

// setupsOf returns the setups of a test.
func setupsOf(t *testing.T) []setup {
	name, _, _ := strings.Cut(t.Name(), "/")
	one, ok := oneFront[name]
	var of []setup
	for _, s := range setups() {
		if !ok || s.front == one.front {
			of = append(of, s)
		}
	}
	return of
}

// TestTestsOfOneFrontExist: a wrong name in oneFront would have no effect.
func TestTestsOfOneFrontExist(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for name, one := range oneFront {
		if !strings.Contains(all.String(), "\nfunc "+name+"(") {
			t.Errorf("%s (%s) is not a test", name, one.why)
		}
	}
}

// onEach runs a test behind the shared Envoy of each setup.
func onEach(t *testing.T, test func(t *testing.T, p *proxy)) {
	env := shared(t)
	for _, s := range setupsOf(t) {
		t.Run(s.String(), func(t *testing.T) { test(t, env.proxy(s)) })
	}
}

// forEach runs a test that starts its own Envoy.
func forEach(t *testing.T, test func(t *testing.T, env *environment, s setup)) {
	env := shared(t)
	for _, s := range setupsOf(t) {
		t.Run(s.String(), func(t *testing.T) { test(t, env, s) })
	}
}

// forEachInParallel is forEach for a test that waits for timeouts.
func forEachInParallel(t *testing.T, test func(t *testing.T, env *environment, s setup)) {
	t.Parallel()
	forEach(t, func(t *testing.T, env *environment, s setup) {
		t.Parallel()
		test(t, env, s)
	})
}

// proxy returns the shared Envoy of a setup.
func (env *environment) proxy(s setup) *proxy {
	for _, p := range env.proxies {
		if p.setup == s {
			return p
		}
	}
	panic("no Envoy of " + s.String())
}
