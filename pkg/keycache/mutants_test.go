package keycache_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutant is a mistake in the package: strings of its source and their replacements. The tests that
// match the pattern must detect it.
type mutant struct {
	name  string
	file  string
	tests string // pattern
	model bool   // the model must detect it, too
	edits []edit
}

type edit struct{ old, new string }

// inMakeTest is the number of mutants, from the first on, that TestMutants applies. Larger takes
// longer; TestAllMutants applies all.
const inMakeTest = 3

var mutants = []mutant{{
	"the lease is counted from the answer", "follow.go", "TestLeaseRunsFromTheSending", true,
	[]edit{{"next.ended, next.dropped = momentOf(sent), ch", "next.ended, next.dropped = momentOf(time.Now()), ch"}},
}, {
	"a late fill restores the old fact", "load.go", "TestLateFill", true,
	[]edit{{"l.changed > revision ||", "false ||"}},
}, {
	"invalidated entries answer", "entry.go", "TestGoneInvalidatesEverything|TestFreshness", true,
	[]edit{{"if s.invalidated(e) {\n\t\treturn stale", "if e.changed || e.account != nil && e.account.changed.Load() > e.revision {\n\t\treturn stale"}},
}, {
	"invalidated entries are served stale", "entry.go", "TestGoneInvalidatesEverything|TestFreshness", true,
	[]edit{{"if s.invalidated(e) {\n\t\treturn false", "if e.changed || e.account != nil && e.account.changed.Load() > e.revision {\n\t\treturn false"}},
}, {
	"no margin for the drift of the clocks", "entry.go", "TestModeBoundaries", true,
	[]edit{{"return d - d/maxDrift", "return d - 0*d/maxDrift"}},
}, {
	"the stale time is counted from the last revalidation", "entry.go", "TestModes|TestModeBoundaries", true,
	[]edit{
		{"maxStale > 0 && passed < subtractDrift(s.lease+maxStale) {", "maxStale > 0 {"},
		{"\t\treturn e.found\n", "\t\treturn e.found && elapsed(e.confirmed, now) < s.maxStale\n"},
	},
}, {
	"a shorter max_stale does not count", "entry.go", "TestReplacedTimes", false,
	[]edit{{"min(s.maxStale, t.MaxStale)", "s.maxStale"}},
}, {
	"a late fill restores an account's old state", "load.go", "TestLateFill", true,
	[]edit{{"b.accounts[r.Record.Account.ID] > revision", "b.accounts[r.Record.Account.ID] > revision+1_000_000"}},
}, {
	"a check that joined a superseded load gets its old answer", "load.go", "TestLateFill", true,
	[]edit{{
		"case !current || b.superseded(l, resolved.Results[i], resolved.Revision):\n\t\t\tc.requeue(l, 0)",
		"case !current || b.superseded(l, resolved.Results[i], resolved.Revision):\n\t\t\tc.finish(l, resolved.Results[i], nil)",
	}},
}, {
	"a fill of an earlier generation is stored as one of this", "load.go", "TestLateFill", true,
	[]edit{
		{"case !current || b.superseded(", "case b.superseded("},
		{"\t\t\tc.store(l.digest, b,", "\t\t\tb.generation = c.state.Load().generation\n\t\t\tc.store(l.digest, b,"},
		{"\tcurrent := b.generation == c.state.Load().generation\n", ""},
	},
}, {
	"in cold mode an older load is joined", "load.go", "TestColdJoinsNoOlderLoad", false,
	[]edit{{"return c.mode() != cold && l.batch.generation", "return l.batch.generation"}},
}, {
	"a change is acknowledged before it is applied", "follow.go", "TestAppliedBeforeAcknowledged", true,
	[]edit{{"hot := c.apply(ch)", "var hot []credential.Digest\n\ttime.AfterFunc(300*time.Millisecond, func() {\n\t\tc.mu.Lock()\n\t\tdefer c.mu.Unlock()\n\t\tc.apply(ch)\n\t})"}},
}, {
	"a failure is cached as an unknown credential", "load.go", "TestFailuresAreNotCached", true,
	[]edit{{"case err != nil:\n\t\t\tc.finish", "case err != nil:\n\t\t\tc.store(l.digest, b, 0, sidecarapi.Result{Outcome: sidecarapi.NotFound})\n\t\t\tc.finish"}},
}, {
	"an unusable result counts as unknown", "load.go", "TestFailuresAreNotCached|TestUnusableResult", false,
	[]edit{{"case resolved.Results[i].Outcome == sidecarapi.Unusable:", "case false:"}},
}, {
	"a change of an account does not reach its credentials", "follow.go", "TestChangeInvalidatesAccount", true,
	[]edit{{"a.changed.Store(max(a.changed.Load(), change.Revision))", "_ = a"}},
}, {
	"a change of a credential does not reach it", "pools.go", "TestChangeInvalidatesCredential", true,
	[]edit{{"\te.changed = true\n", ""}},
}, {
	"a 410 invalidates nothing", "follow.go", "TestGone", true,
	[]edit{{"\tc.invalidateAll(head.Epoch, head.Revision)\n", ""}},
}, {
	"an invalidation keeps the lease of the log before", "revalidate.go", "TestGoneIsAcknowledgedImmediately", false,
	[]edit{{"next.ended = true", "next.ended = next.ended || false"}},
}, {
	"an earlier generation is revalidated while the key API is down", "revalidate.go", "TestRevalidationEnds", false,
	[]edit{{"\tif c.state.Load().generation != generation {\n\t\treturn true\n\t}\n", ""}},
}, {
	"the epoch of a resolve is ignored", "load.go", "TestResolveOfNewEpoch", false,
	[]edit{{"case s.epoch != r.Epoch:", "case false:"}},
}, {
	"a resolve's revision may decrease", "load.go", "TestDecreasingRevisions|TestFailuresAreNotCached", false,
	[]edit{{"case r.Revision < b.minRevision:", "case false:"}},
}, {
	"a poll's revision may decrease", "follow.go", "TestDecreasingRevisions", false,
	[]edit{{"case ch.Revision < req.After:", "case false:"}},
}, {
	"after its stale time the follower continues at its cursor", "follow.go", "TestStartsOverAfterTheStaleTime", false,
	[]edit{{"case m == cold || m == ttl || c.cursor.after == headOnly:", "case m == ttl || c.cursor.after == headOnly:"}},
}, {
	"a start keeps the lease before", "follow.go", "TestPollAnswerOfAnotherEpoch", false,
	[]edit{{"\t\tc.dropLease()\n", ""}},
}, {
	"a 200 for the head gives a lease", "follow.go", "TestLeaseForTheHead", false,
	[]edit{{"case req.After == headOnly:", "case false:"}, {"case ch.Epoch != req.Epoch:", "case req.After != headOnly && ch.Epoch != req.Epoch:"}},
}, {
	"a 404 enters time-to-live mode though the change log is required", "follow.go", "TestRequiredChangeLog", true,
	[]edit{{"errors.Is(err, sidecarapi.ErrNotOffered) && c.changesOptional && f.enter", "errors.Is(err, sidecarapi.ErrNotOffered) && f.enter"}},
}, {
	"a 409 is an error like any other", "follow.go", "TestConflict", true,
	[]edit{{"case errors.Is(err, sidecarapi.ErrConflict):\n\t\tf.handleConflict()", "case false:\n\t\tf.handleConflict()"}},
}, {
	"a 409 is ignored while the follower is woken", "follow.go", "TestConflictWhileWoken", false,
	[]edit{{"if err != nil && !isAnswer(err) {", "if err != nil {"}},
}, {
	"a 409 keeps the lease", "follow.go", "TestConflict", false,
	[]edit{{"\tc.mu.Lock()\n\tc.dropLease()\n", "\tc.mu.Lock()\n"}},
}, {
	"a 409 keeps the name", "follow.go", "TestConflict", true,
	[]edit{{"c.cursor.name, c.cursor.epoch, c.cursor.after = after, \"\", headOnly", "c.cursor.epoch, c.cursor.after = \"\", headOnly"}},
}, {
	"poll numbers do not rise", "follow.go", "TestPollNumbersRise", true,
	[]edit{{"\tc.cursor.poll++\n", "\tc.cursor.poll = 1\n"}},
}, {
	"the deregistration has the number of the last poll", "follow.go", "TestDeregistration", false,
	[]edit{{"\treq.Leave = true\n", "\treq.Leave = true\n\treq.Poll--\n"}},
}, {
	"time-to-live mode begins while the lease is on record", "follow.go", "TestTTLModeNeeds", false,
	[]edit{{"s.onRecord(momentOf(now)) ||", "false ||"}},
}, {
	"time-to-live mode begins while an acknowledgement may be on record", "follow.go", "TestTTLModeNeeds", false,
	[]edit{{"!f.unanswered.IsZero() && now", "false && now"}},
}, {
	"an acknowledgement before the first lease counts no lease", "follow.go", "TestTTLModeNeeds", false,
	[]edit{{"cmp.Or(s.lease, longestLease)", "cmp.Or(s.lease, 0)"}},
}, {
	"time-to-live mode continues after the acknowledgement", "follow.go", "TestTTLModeEnds", false,
	[]edit{{"if s := c.state.Load(); s.ttlMode {", "if s := c.state.Load(); false {"}},
}, {
	"revoked credentials are kept with those in force", "entry.go", "TestOnlyCredentialsInForce|TestEntriesMove|TestExpired", false,
	[]edit{{"if inForce(rec, time.Now()) {", "if true {"}},
}, {
	"an expired credential stays with those in force", "cache.go", "TestExpired", false,
	[]edit{{"\t\tc.moveExpired(d)\n", ""}},
}, {
	"an entry that moves leaves its account", "entry.go", "TestExpired", false,
	[]edit{{"\t\ts.move(i, unknownPool)\n", "\t\ts.leave(s.at(i))\n\t\ts.move(i, unknownPool)\n"}},
}, {
	"a set of scopes without entries is kept", "shared.go", "TestShared", false,
	[]edit{{"if s.entries--; s.entries == 0 {", "if s.entries--; false {"}},
}, {
	"an evicted entry is still found", "pools.go", "TestShardIs", false,
	[]edit{{"\t*b = e.chain\n", "\t_ = b\n"}},
}, {
	"a used entry is evicted first", "pools.go", "TestShardIs", false,
	[]edit{{"if e.prev != slot(e.pool) {", "if false {"}},
}, {
	"revalidating an entry that is not in force takes a token", "pools.go", "TestRevalidationTakesNoToken", false,
	[]edit{{"\te.changed = true\n", "\te.changed = true\n\tif e.pool == unknownPool {\n\t\ts.remove(s.find(&d))\n\t\treturn false\n\t}\n"}},
}, {
	"a revalidation waits for the token of the load that it joins", "load.go", "TestRevalidationAdmits", false,
	[]edit{{"if cached && l.batch == nil {", "if false {"}},
}, {
	"a revoked credential consumes no token", "load.go", "TestTokens", false,
	[]edit{{"r.Outcome == sidecarapi.Found && inForce(&r.Record, now)", "r.Outcome == sidecarapi.Found"}},
}, {
	"a line is logged while Cache.mu is held", "follow.go", "TestNoLockIsHeld", false,
	[]edit{{"\tc.mu.Unlock()\n\tc.log.Info(\"key API offers", "\tdefer c.mu.Unlock()\n\tc.log.Info(\"key API offers"}},
}, {
	"a stop is logged as a failure", "follow.go", "TestCleanStop", false,
	[]edit{{"if woken || ctx.Err() != nil {", "if woken {"}},
}, {
	"the gauge counts resolves alone", "metrics.go", "TestKeyAPIDown", false,
	[]edit{{"telemetry.Flag(c.pollsFailing.Load())", "0"}},
}, {
	"a part of the changes lengthens the stale time", "follow.go", "TestPartialChanges", false,
	[]edit{{"if ch.Lease > 0 {", "if ch.Lease >= 0 {"}},
}, {
	"unknown digests are served stale in degraded mode", "entry.go", "TestModes", false,
	[]edit{{"\t\treturn e.found\n", "\t\treturn true\n"}},
}, {
	"an entry past max_age is not served stale under a lease", "entry.go", "TestPastMaxAge", false,
	[]edit{{"case synced:\n\t\treturn true", "case synced:\n\t\treturn elapsed(e.confirmed, now) < t.MaxAge"}},
}, {
	"a credential in force consumes its token", "load.go", "TestColdStartIsNotRateLimited|TestTokens", false,
	[]edit{{"c.limiter.refund()", "c.limiter.consume(now)"}},
}, {
	"an unknown digest consumes no token", "load.go", "TestFloodIsRateLimited|TestTokens", false,
	[]edit{{"c.limiter.consume(now)", "c.limiter.refund()"}},
}, {
	"new limits fill the token bucket", "limiter.go", "TestReplacedLimits", false,
	[]edit{{"\tl.free = min(l.free, max(0, l.burst-l.held))\n", "\tl.free = l.burst\n"}},
}, {
	"a changed credential is resolved like one never seen", "pools.go", "TestRevalidationTakesNoToken", false,
	[]edit{{"\te.changed = true\n", "\tif e.pool == knownPool {\n\t\ts.remove(s.find(&d))\n\t\treturn false\n\t}\n"}},
}, {
	"no entry is refreshed before it is stale", "entry.go", "TestUsedEntriesAreRefreshed", false,
	[]edit{{"case age >= early && ", "case age < 0 && "}},
}, {
	"an entry that is due for a refresh answers without one", "cache.go", "TestUsedEntriesAreRefreshed|TestCached", false,
	[]edit{{"case f == refresh && down:", "case f == refresh:"}},
}, {
	"a stale entry answers though the key API can be reached", "cache.go", "TestPastMaxAge|TestCached", false,
	[]edit{{"case f == stale && down && state", "case f == stale && state"}},
}, {
	"checks pay for detecting the recovery of the key API", "load.go", "TestBreaker", false,
	[]edit{{"return c.failures.Load() >= maxFailures", "return c.failures.Load() >= maxFailures+1_000_000"}},
}, {
	"every resolve of a new epoch wakes the follower", "revalidate.go", "TestManyResolves|TestResolveOfNewEpoch", false,
	[]edit{{"if c.pendingEpoch != nil && c.pendingEpoch.Epoch == epoch {", "if false {"}},
}, {
	"a stop does not deregister", "follow.go", "TestDeregistration", false,
	[]edit{{"if !f.polled || c.state.Load().ttlMode {", "if true || !f.polled || c.state.Load().ttlMode {"}},
}}

// modelFiles are left out for unit tests, so that a mutant builds quickly.
var modelFiles = []string{
	"example_test.go", "export_test.go", "facts_test.go", "faults_test.go", "keyd_test.go", "long_test.go", "lostconn_test.go", "model_test.go",
	"mutants_test.go", "network_test.go", "restore_test.go", "scenes_test.go", "sidecar_test.go", "world_test.go",
}

// Every mutant still matches the source.
func TestMutantsApply(t *testing.T) {
	for _, m := range mutants {
		if _, err := m.apply(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

// apply returns the mutated file.
func (m mutant) apply() (string, error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	text := string(source)
	for _, e := range m.edits {
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("%s has %q %d times, want once", m.file, e.old, n)
		}
		text = strings.Replace(text, e.old, e.new, 1)
	}
	return text, nil
}

// The tests detect the mutants.
func TestMutants(t *testing.T) {
	for _, m := range mutants[:inMakeTest] {
		t.Run(m.name, func(t *testing.T) { m.mustBeDetected(t, m.tests, modelFiles) })
	}
}

// mustBeDetected applies the mutant to a copy of its file and runs the tests with it.
func (m mutant) mustBeDetected(t *testing.T, tests string, without []string) {
	t.Helper()
	folder := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	text, err := m.apply()
	if err != nil {
		t.Fatal(err)
	}
	mutated := filepath.Join(folder, m.file)
	if err := os.WriteFile(mutated, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{filepath.Join(here, m.file): mutated}
	for _, file := range without {
		replace[filepath.Join(here, file)] = ""
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(folder, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"test", "-overlay", list, "-count=1", "-failfast", "-timeout", "3m", "-run", "^(" + tests + ")", "."}
	if without == nil {
		args = append(args, "-rapid.shrinktime=0s", "-worlds=50")
	}
	began := time.Now()
	out, err := exec.Command("go", args...).CombinedOutput()
	switch {
	case err == nil:
		t.Errorf("not detected by %s:\n%s", tests, out)
	case !strings.Contains(string(out), "--- FAIL") && !strings.Contains(string(out), "panic:"):
		t.Errorf("the tests did not run: %v\n%s", err, out)
	}
	if !t.Failed() {
		t.Logf("detected after %s", time.Since(began).Round(time.Millisecond))
	}
}
