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

// mutant is a mistake that somebody might make: a text of the package's source, and
// what takes its place. Tests names, as a pattern, the tests that must find it.
type mutant struct {
	name  string
	file  string
	edits []edit
	tests string
	model bool // the model must find it, too
}

type edit struct{ old, new string }

// inMakeTest is how many of the mutants, from the first on, every run of the tests
// applies. The rest take their time in the long run.
const inMakeTest = 3

var mutants = []mutant{
	{
		"the lease is counted from the answer", "apply.go",
		[]edit{{"next.sent, next.lease, next.void, next.dropped = sent, ch", "_ = sent\n\t\tnext.sent, next.lease, next.void, next.dropped = time.Now(), ch"}},
		"TestLeaseRunsFromTheSending", true,
	},
	{
		"a late fill puts the old fact back", "load.go",
		[]edit{{"if l.changed > revision {", "if false {"}},
		"TestALateFill", true,
	},
	{
		"suspects answer", "state.go",
		[]edit{{"if e.generation != s.generation || e.outdated() {\n\t\treturn ask", "if e.outdated() {\n\t\treturn ask"}},
		"TestGoneMakesAllSuspect|TestJudge", true,
	},
	{
		"suspects answer when nothing can be reached", "state.go",
		[]edit{{"if e.generation != s.generation || e.outdated() {\n\t\treturn false", "if e.outdated() {\n\t\treturn false"}},
		"TestGoneMakesAllSuspect|TestJudge", true,
	},
	{
		"no margin for the drift of the clocks", "state.go",
		[]edit{{"return d - d/50", "return d"}},
		"TestModeToTheEdge", true,
	},
	{
		"the stale time is counted from the last confirmation", "state.go",
		[]edit{
			{"case s.stale > 0 && passed < trusted(s.lease+s.stale):", "case s.stale > 0:"},
			{"\t\treturn e.found\n", "\t\treturn e.found && elapsed(e.confirmed, now) < s.stale\n"},
		},
		"TestModes|TestModeToTheEdge", true,
	},
	{
		"a late fill puts an account's old state back", "load.go",
		[]edit{{"b.accounts[r.Record.Account.ID] > revision", "b.accounts[r.Record.Account.ID] > revision+1_000_000"}},
		"TestALateFill", true,
	},
	{
		"who joined an overtaken load gets its old answer", "load.go",
		[]edit{{
			"case !current || b.superseded(l, resolved.Results[i], resolved.Revision):\n\t\t\tc.askAgain(l, 0)",
			"case !current || b.superseded(l, resolved.Results[i], resolved.Revision):\n\t\t\tc.finish(l, resolved.Results[i], nil)",
		}},
		"TestALateFill", true,
	},
	{
		"a fill of an earlier generation is kept as one of this", "load.go",
		[]edit{
			{"case !current || b.superseded(", "case b.superseded("},
			{"generation: b.generation,", "generation: c.state.Load().generation,"},
			{"\tcurrent := b.generation == c.state.Load().generation\n", ""},
		},
		"TestALateFill", true,
	},
	{
		"where nothing cached answers, an older load is joined", "load.go",
		[]edit{{"return m != cold && l.batch.generation", "return l.batch.generation"}},
		"TestColdJoinsNoOlderLoad", false,
	},
	{
		"a change is acknowledged before it is applied", "apply.go",
		[]edit{{"hot := f.apply(ch)", "var hot []credential.Digest\n\ttime.AfterFunc(300*time.Millisecond, func() {\n\t\tf.mu.Lock()\n\t\tdefer f.mu.Unlock()\n\t\tf.apply(ch)\n\t})"}},
		"TestAppliedBeforeAcknowledged", true,
	},
	{
		"a failure is remembered as an unknown credential", "load.go",
		[]edit{{"case err != nil:\n\t\t\tc.finish", "case err != nil:\n\t\t\tc.store(l.digest, b, 0, sidecarapi.Result{Outcome: sidecarapi.NotFound})\n\t\t\tc.finish"}},
		"TestFailuresAreNotRemembered", true,
	},
	{
		"a result that teaches nothing counts as unknown", "load.go",
		[]edit{{"case resolved.Results[i].Outcome == sidecarapi.Unusable:", "case false:"}},
		"TestFailuresAreNotRemembered|TestOneResult", false,
	},
	{
		"a change of an account does not reach its credentials", "apply.go",
		[]edit{{"a.changed.Store(max(a.changed.Load(), change.Revision))", "_ = a"}},
		"TestChangesOfAccounts", true,
	},
	{
		"a change of a credential does not reach it", "apply.go",
		[]edit{{"e := c.invalidate(change); e != nil", "e := (*entry)(nil); e != nil"}, {"func (c *Cache) invalidate(", "var _ = (*Cache).invalidate\n\nfunc (c *Cache) invalidate("}},
		"TestChangesOfCredentials", true,
	},
	{
		"after a 410 all goes on as before", "apply.go",
		[]edit{{"\tf.invalidateAll(head.Epoch, head.Revision)\n", ""}},
		"TestGone", true,
	},
	{
		"an invalidation keeps the lease of the log before", "begin.go",
		[]edit{{"next.void = true", "next.void = next.void || false"}},
		"TestGoneIsFollowedAtOnce", false,
	},
	{
		"the epoch of a resolve is not looked at", "load.go",
		[]edit{{"case s.epoch != r.Epoch:", "case false:"}},
		"TestANewEpochInAResolve", false,
	},
	{
		"a resolve's revision may go back", "load.go",
		[]edit{{"case r.Revision < b.least:", "case false:"}},
		"TestRevisionsThatGoBack|TestFailuresAreNotRemembered", false,
	},
	{
		"a poll's revision may go back", "apply.go",
		[]edit{{"case ch.Revision < ask.After:", "case false:"}},
		"TestRevisionsThatGoBack", false,
	},
	{
		"after its stale time it goes on where it was", "follow.go",
		[]edit{{"case m == cold || m == ttl || f.at.after == headOnly:", "case m == ttl || f.at.after == headOnly:"}},
		"TestAfterTheStaleTime", false,
	},
	{
		"a start relies on the lease before", "follow.go",
		[]edit{{"\t\tf.dropLease()\n", ""}},
		"TestAnAnswerOfAnotherEpoch", false,
	},
	{
		"a 200 for the head is believed", "apply.go",
		[]edit{{"case ask.After == headOnly:", "case false:"}, {"case ch.Epoch != ask.Epoch:", "case ask.After != headOnly && ch.Epoch != ask.Epoch:"}},
		"TestLeaseForTheHead", false,
	},
	{
		"a 404 puts a required change log into time-to-live mode", "follow.go",
		[]edit{{"errors.Is(err, sidecarapi.ErrNotOffered) && f.optional && f.enter", "errors.Is(err, sidecarapi.ErrNotOffered) && f.enter"}},
		"TestRequiredChangeLog", true,
	},
	{
		"a 409 is an error like any other", "follow.go",
		[]edit{{"case errors.Is(err, sidecarapi.ErrConflict):\n\t\tf.conflict()", "case false:\n\t\tf.conflict()"}},
		"TestConflict", true,
	},
	{
		"a 409 leaves the lease", "apply.go",
		[]edit{{"\tf.dropLease()\n", ""}},
		"TestConflict", false,
	},
	{
		"after a 409 the name is kept", "apply.go",
		[]edit{{"f.at.name, f.at.epoch, f.at.after = after, \"\", headOnly", "f.at.epoch, f.at.after = \"\", headOnly"}},
		"TestConflict", true,
	},
	{
		"the number of polls does not rise", "follow.go",
		[]edit{{"\tf.at.poll++\n\ts := ", "\tf.at.poll = 1\n\ts := "}},
		"TestPollNumbersRise", true,
	},
	{
		"the goodbye has the number of the last poll", "follow.go",
		[]edit{{"\tf.at.poll++\n\task := ", "\task := "}},
		"TestLeave", false,
	},
	{
		"time-to-live mode begins while the lease is on record", "apply.go",
		[]edit{{"case s.onRecord(now),", "case false,"}},
		"TestTTLModeNeeds", false,
	},
	{
		"time-to-live mode begins while an acknowledgement may be on record", "apply.go",
		[]edit{{", !f.unanswered.IsZero() && ", ", false && "}},
		"TestTTLModeNeeds", false,
	},
	{
		"time-to-live mode goes on after the acknowledgement", "apply.go",
		[]edit{{"if s := f.state.Load(); s.noLog {", "if s := f.state.Load(); false {"}},
		"TestTTLModeEnds", false,
	},
	{
		"revoked credentials are kept with those in force", "pool.go",
		[]edit{{"if e.found && inForce(&e.rec, now) {", "if e.found {"}},
		"TestOnlyCredentialsInForce|TestEntriesMove|TestExpired", false,
	},
	{
		"a credential that expires stays with those in force", "cache.go",
		[]edit{{"\t\tc.moveExpired(d)\n", ""}},
		"TestExpired", false,
	},
	{
		"an entry that moves is not counted by its account", "load.go",
		[]edit{{"\t\te.account.entries++ // put", "\t\t// put"}},
		"TestExpired", false,
	},
	{
		"what is cached and not in force takes a token to be revalidated", "pool.go",
		[]edit{{"\te.changed = true\n\treturn e\n", "\te.changed = true\n\ts.unknown.Remove(d)\n\treturn e\n"}},
		"TestRevalidationTakesNoToken", false,
	},
	{
		"a revoked credential costs no token", "load.go",
		[]edit{{"r.Outcome == sidecarapi.Found && inForce(&r.Record, time.Now()); found", "r.Outcome == sidecarapi.Found; found"}},
		"TestTokens", false,
	},
	{
		"log lines are written by those who log", "journal.go",
		[]edit{{"\tj.mu.Lock()\n\tdefer j.mu.Unlock()\n\tif len", "\tif true {\n\t\tentry.Write(fields...)\n\t\treturn\n\t}\n\tj.mu.Lock()\n\tdefer j.mu.Unlock()\n\tif len"}},
		"TestBlockedLogWriter", false,
	},
	{
		"a stop is logged as a failure", "follow.go",
		[]edit{{"err != nil && (woken || ctx.Err() != nil)", "err != nil && woken"}},
		"TestCleanStop", false,
	},
	{
		"the gauge counts resolves alone", "metrics.go",
		[]edit{{" || c.pollsFail.Load()", ""}},
		"TestKeyAPIDown", false,
	},
	{
		"a part of the changes lengthens the stale time", "apply.go",
		[]edit{{"if ch.Lease > 0 {", "if ch.Lease >= 0 {"}},
		"TestAPartOfTheChanges", false,
	},
	{
		"unknown ones answer on an island", "state.go",
		[]edit{{"\t\treturn e.found\n", "\t\treturn true\n"}},
		"TestModes", false,
	},
	{
		"an entry past max_age answers no more under a lease", "state.go",
		[]edit{{"case synced:\n\t\treturn true", "case synced:\n\t\treturn elapsed(e.confirmed, now) < t.MaxAge"}},
		"TestPastMaxAge", false,
	},
	{
		"a credential that is found costs its token", "load.go",
		[]edit{{"l.token.refund()", "l.token.consume()"}},
		"TestAColdStartIsNoFlood|TestTokens", false,
	},
	{
		"an unknown one costs no token", "load.go",
		[]edit{{"l.token.consume()", "l.token.refund()"}},
		"TestAFloodIsHeldBack|TestTokens", false,
	},
	{
		"a changed credential is asked for like one never seen", "pool.go",
		[]edit{{"\te.changed = true\n", "\ts.known.Remove(d)\n"}},
		"TestKnownOnesPassNoLimiter", false,
	},
	{
		"nothing is refreshed before it is old", "state.go",
		[]edit{{"case age >= early && ", "case age < 0 && "}},
		"TestHotOnesAreRefreshed", false,
	},
	{
		"checks pay for finding out that the key API is back", "breaker.go",
		[]edit{{"return !b.open", "return true || !b.open"}},
		"TestBreaker", false,
	},
	{
		"every answer of a new log makes the follower ask anew", "begin.go",
		[]edit{{"if c.stray != nil && c.stray.Epoch == epoch {", "if false {"}},
		"TestManyAnswers|TestANewEpoch", false,
	},
	{
		"it stops without a goodbye", "follow.go",
		[]edit{{"if !f.polled || f.state.Load().noLog {", "if true || !f.polled || f.state.Load().noLog {"}},
		"TestLeave", false,
	},
}

// ofTheModel are the files that the unit tests do without, so that a mutant is built
// in a moment.
var ofTheModel = []string{
	"keyd_test.go", "long_test.go", "oldproto_test.go", "proof_scenes_test.go", "sidecar_test.go", "export_test.go", "deadconn_test.go", "model_test.go", "mutants_test.go", "network_test.go", "restore_test.go", "scenes_test.go",
	"truth_test.go", "world_test.go",
}

// TestMutantsApply holds that no mutant is out of date.
func TestMutantsApply(t *testing.T) {
	for _, m := range mutants {
		if _, err := m.apply(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

// apply returns the mutant's file.
func (m mutant) apply() (string, error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	text := string(source)
	for _, e := range m.edits {
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("%s has %q %d times", m.file, e.old, n)
		}
		text = strings.Replace(text, e.old, e.new, 1)
	}
	return text, nil
}

// TestMutants holds the tests themselves to their word.
func TestMutants(t *testing.T) {
	for _, m := range mutants[:inMakeTest] {
		t.Run(m.name, func(t *testing.T) { m.mustBeFound(t, m.tests, ofTheModel) })
	}
}

// mustBeFound applies the mutant to a copy of its file and runs the tests over it.
func (m mutant) mustBeFound(t *testing.T, tests string, without []string) {
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
		t.Errorf("it survives %s:\n%s", tests, out)
	case !strings.Contains(string(out), "--- FAIL") && !strings.Contains(string(out), "panic:"):
		t.Errorf("it was not run: %v\n%s", err, out)
	}
	if !t.Failed() {
		t.Logf("found after %s", time.Since(began).Round(time.Millisecond))
	}
}
