//go:build cgo

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go"
	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule"
)

// adminSocket returns the path of a socket that is free.
func adminSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m") // a short name, because the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "a.sock")
}

// mustOpen opens an engine. The test releases it.
func mustOpen(t *testing.T, filterConfig []byte) *envoymodule.Engine {
	t.Helper()
	e, err := open(filterConfig)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func check(t *testing.T, e *envoymodule.Engine, key string, change func(*extauthz.Request)) string {
	t.Helper()
	r := &extauthz.Request{Authorization: []string{"Bearer " + key}, Route: extauthz.RouteRequirement{Set: true}, Method: "GET", Path: "/x"}
	if change != nil {
		change(r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), e.Timeout())
	defer cancel()
	return e.Checker.Check(ctx, r).Meta.Reason
}

// awaitAllowed repeats a check until it is allowed: the sidecar may not have polled yet.
func (k *keyd) awaitAllowed(t *testing.T, e *envoymodule.Engine) {
	t.Helper()
	if err := testbed.Until(t.Context(), func() error {
		if got := check(t, e, k.creds.Plain, nil); got != "ok" {
			return fmt.Errorf("the check is %s", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// awaitCached waits until the cache answers a check, and returns the number of resolves.
func (k *keyd) awaitCached(t *testing.T, e *envoymodule.Engine) (resolves int) {
	t.Helper()
	if err := testbed.Until(t.Context(), func() error {
		before, _, _ := k.counts()
		got := check(t, e, k.creds.Plain, nil)
		if resolves, _, _ = k.counts(); got != "ok" || resolves != before {
			return fmt.Errorf("the check is %s after %d resolves", got, resolves-before)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return resolves
}

func readyz(t *testing.T, socket string) error {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	answer, err := client.Get("http://admin/readyz")
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", answer.StatusCode)
	}
	return errors.Join(err, answer.Body.Close())
}

// An update of listeners makes the new filter before it destroys the old one: the cache survives.
func TestSameEngineShares(t *testing.T) {
	k, admin := startKeyd(t), adminSocket(t)
	first := mustOpen(t, k.fields(admin, ""))
	before := k.awaitCached(t, first)
	second := mustOpen(t, k.fields(admin, `,"shadow":true,"endpoints":[{"path":"/x","principal":"session"}]`))
	first.Release()
	if err := readyz(t, admin); err != nil {
		t.Errorf("the engine after the update: %v", err)
	}
	byTable := func(r *extauthz.Request) { r.Route.Set = false }
	if got := check(t, second, k.creds.Plain, byTable); got != "session_required" {
		t.Errorf("with the new endpoints: %s", got)
	}
	if got := check(t, first, k.creds.Plain, byTable); got != "no_policy" {
		t.Errorf("streams of the old filter: %s", got)
	}
	if after, polled, left := k.counts(); after != before || polled != 1 || left != 0 {
		t.Errorf("%d more resolves, %d sidecars, %d deregistered", after-before, polled, left)
	}
	second.Release()
	if _, _, left := k.counts(); left != 1 {
		t.Errorf("%d deregistered after the last release", left)
	}
	if readyz(t, admin) == nil {
		t.Error("the admin listener still answers")
	}
}

// The engine keeps the values of such fields, so that somebody has to be told.
func TestFieldsThatRequireARestartAreNamed(t *testing.T) {
	k, admin := startKeyd(t), adminSocket(t)
	first := mustOpen(t, k.fields(admin, ""))
	defer first.Release()
	core, log := observer.New(zapcore.WarnLevel)
	engines.Lock()
	for _, e := range engines.running {
		e.log = zap.New(core)
	}
	engines.Unlock()
	for more, want := range map[string]string{
		`,"shadow":true`: "[]",
		`,"start_wait":"3s","cache":{"unknown":7}`: "[map[fields:[cache.unknown start_wait]]]",
	} {
		second := mustOpen(t, k.fields(admin, more))
		var got []map[string]any
		for _, line := range log.TakeAll() {
			got = append(got, line.ContextMap())
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: the log has %v, want %s", more, got, want)
		}
		second.Release()
	}
}

func TestEngineStartsAgainAfterTheLastRelease(t *testing.T) {
	k, admin := startKeyd(t), adminSocket(t)
	for i := range 3 {
		e := mustOpen(t, k.fields(admin, ""))
		k.awaitAllowed(t, e)
		e.Release()
		if _, polled, left := k.counts(); polled != i+1 || left != i+1 {
			t.Errorf("%d sidecars, %d deregistered, want %d", polled, left, i+1)
		}
	}
	engines.Lock()
	defer engines.Unlock()
	if n := len(engines.running); n != 0 {
		t.Errorf("%d engines are kept, with their caches", n)
	}
}

// The old engine stops beside the new one. One with its key waits for its end.
func TestTwoEngines(t *testing.T) {
	k, admin, other := startKeyd(t), adminSocket(t), adminSocket(t)
	first, second := mustOpen(t, k.fields(admin, "")), mustOpen(t, k.fields(other, ""))
	k.awaitAllowed(t, first)
	k.awaitAllowed(t, second)
	first.Release() // does not wait
	again := mustOpen(t, k.fields(admin, ""))
	k.awaitAllowed(t, again)
	if _, polled, left := k.counts(); polled != 3 || left != 1 {
		t.Errorf("%d sidecars, %d deregistered", polled, left)
	}
	second.Release()
	again.Release()
	if err := testbed.Until(t.Context(), func() error {
		if _, _, left := k.counts(); left != 3 {
			return fmt.Errorf("%d deregistered", left)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	awaitEngines(t)
}

// awaitEngines waits until the engines that stop in the background have stopped.
func awaitEngines(t *testing.T) {
	t.Helper()
	if err := testbed.Until(t.Context(), func() error {
		engines.Lock()
		defer engines.Unlock()
		if n := len(engines.running); n > 0 {
			return fmt.Errorf("%d engines run", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestFileIsReloaded(t *testing.T) {
	k, admin := startKeyd(t), adminSocket(t)
	file := filepath.Join(t.TempDir(), "module.yaml")
	write := func(more string) {
		if err := os.WriteFile(file, k.fields(admin, more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	config := fmt.Appendf(nil, `{"config_file":%q}`, file)
	first, second := mustOpen(t, config), mustOpen(t, config)
	if first.Checker != second.Checker {
		t.Error("two filters with one file have two sets of rules")
	}
	k.awaitAllowed(t, first)
	write(`,"endpoints":[{"path":"/x","principal":"session"}]`)
	if err := testbed.Until(t.Context(), func() error {
		if got := check(t, second, k.creds.Plain, func(r *extauthz.Request) { r.Route.Set = false }); got != "session_required" {
			return fmt.Errorf("the check is %s", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	write("}") // a mistake rejects a new filter, and the engine keeps its rules
	if e, err := open(config); err == nil || e != nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error of a file with a mistake: %v", err)
	}
	if got := check(t, second, k.creds.Plain, nil); got != "ok" {
		t.Errorf("after a mistake in the file: %s", got)
	}
	first.Release()
	second.Release()
	if _, polled, left := k.counts(); polled != 1 || left != 1 {
		t.Errorf("%d sidecars, %d deregistered", polled, left)
	}
	awaitEngines(t)
}

func TestFailedStartLeavesNothingRunning(t *testing.T) {
	k, admin := startKeyd(t), adminSocket(t)
	for name, config := range map[string][]byte{
		"mistake":         k.fields(admin, `,"shadow":3`),
		"not YAML":        []byte("{"),
		"empty":           nil,
		"no admin folder": k.fields(admin+"/none/a", ""),
		"missing token":   bytes.Replace(k.fields(admin, ""), []byte("key-api.token"), []byte("missing.token"), 1),
		"missing file":    []byte(`{"config_file":"/none/module.yaml"}`),
	} {
		if e, err := open(config); err == nil || e != nil {
			t.Errorf("%s: opened", name)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	config := bytes.Replace(k.fields(admin, ""), []byte("unix://"+admin), []byte("tcp://"+taken.Addr().String()), 1)
	if _, err := open(config); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a taken admin address: %v", err)
	}
	if _, polled, _ := k.counts(); polled != 0 {
		t.Errorf("%d sidecars polled", polled)
	}
	awaitEngines(t)
}

// A mistake in an update leaves the engine as it is.
func TestRejectedUpdateKeepsTheEngine(t *testing.T) {
	k, admin := startKeyd(t), adminSocket(t)
	e := mustOpen(t, k.fields(admin, ""))
	k.awaitAllowed(t, e)
	if _, err := open(k.fields(admin, `,"endpoints":[{"path":"/x"},{"path":"/x"}]`)); err == nil {
		t.Error("an update with a mistake was accepted")
	}
	if got := check(t, e, k.creds.Plain, nil); got != "ok" {
		t.Errorf("the check is %s", got)
	}
	e.Release()
	if _, _, left := k.counts(); left != 1 {
		t.Errorf("%d deregistered: the rejected update counts as a user", left)
	}
	awaitEngines(t)
}

// A program that exited by itself answers 503. The next filter starts it again.
func TestExitedEngineIsReplaced(t *testing.T) {
	k, admin := startKeyd(t), adminSocket(t)
	dead := mustOpen(t, k.fields(admin, ""))
	k.awaitAllowed(t, dead)
	engines.Lock()
	for _, e := range engines.running {
		e.program.Stop()
	}
	engines.Unlock()
	next := mustOpen(t, k.fields(admin, ""))
	k.awaitAllowed(t, next)
	dead.Release()
	if got := check(t, next, k.creds.Chat, nil); got != "ok" {
		t.Errorf("after the release of the old filter: %s", got)
	}
	next.Release()
	awaitEngines(t)
}

func TestFilterIsRegistered(t *testing.T) {
	f := sdk.GetHttpFilterConfigFactory(envoymodule.Name)
	if f == nil {
		t.Fatal("the SDK does not have the filter")
	}
	if made, err := sdk.NewHttpFilterFactory(noMetrics{}, envoymodule.Name, []byte(`{"key_api":{}}`)); err == nil || made != nil ||
		!strings.Contains(err.Error(), "key_api.url") {
		t.Errorf("a filter_config with a mistake: %v", err)
	}
	for text, want := range map[string]bool{`{"scope":"a"}`: true, `{"principal":"key"}`: true, `{}`: false, `{"scop":"a"}`: false, "": false} {
		if config, err := f.CreatePerRoute([]byte(text)); (err == nil) != want || (config != nil) != want {
			t.Errorf("%s: %v, %v", text, config, err)
		}
	}
}

type noMetrics struct{ shared.HttpFilterConfigHandle }

func TestRouteRequirement(t *testing.T) {
	for text, want := range map[string]extauthz.RouteRequirement{
		`{"scope":"a b"}`:                 {Set: true, Scope: "a b"},
		`{"scope":""}`:                    {Set: true},
		`{"principal":"session"}`:         {Set: true, HasPrincipal: true, Principal: "session"},
		`{"scope":"a","principal":"any"}`: {Set: true, Scope: "a", HasPrincipal: true, Principal: "any"},
		"scope: a\nprincipal: key\n":      {Set: true, Scope: "a", HasPrincipal: true, Principal: "key"},
	} {
		if got, err := route([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
