package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// manual is docs/operations.md, chapter by chapter.
type manual struct {
	t       *testing.T
	blocks  map[string][]string // console blocks by heading, those not yet run
	env     []string
	prelude string
}

func readManual(t *testing.T) *manual {
	t.Helper()
	raw, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	m := &manual{t: t, blocks: map[string][]string{}, env: os.Environ()}
	for _, chapter := range strings.Split(string(raw), "\n## ")[1:] {
		heading, text, _ := strings.Cut(chapter, "\n")
		for _, block := range regexp.MustCompile("(?ms)^```console\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
			m.blocks[heading] = append(m.blocks[heading], block[1])
		}
	}
	return m
}

func (m *manual) set(name, value string) { m.env = append(m.env, name+"="+value) }

// run runs the chapter's next block in a shell that stops at the first failure, compares
// what is printed with what is shown, and returns it.
func (m *manual) run(heading string) {
	m.t.Helper()
	if len(m.blocks[heading]) == 0 {
		m.t.Fatalf("the chapter %q has no further commands", heading)
	}
	block := m.blocks[heading][0]
	m.blocks[heading] = m.blocks[heading][1:]
	script, shown := "set -e\n"+m.prelude, ""
	for _, line := range strings.SplitAfter(block, "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			script += command
		} else {
			shown += line
		}
	}
	shell := exec.CommandContext(m.t.Context(), "bash", "-s")
	shell.Stdin, shell.Env = strings.NewReader(script), m.env
	out, err := shell.CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s: %v\n%s\n%s", heading, err, script, out)
	}
	parts := strings.Split(strings.TrimSpace(shown), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(strings.Trim(parts[i], "\n"))
	}
	if !regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`).MatchString(strings.TrimSpace(string(out))) {
		m.t.Errorf("%s: shown\n%s\nprinted\n%s", heading, shown, out)
	}
}

// done fails if a command of the manual was not run.
func (m *manual) done() {
	for heading, blocks := range m.blocks {
		if len(blocks) > 0 {
			m.t.Errorf("the chapter %q has commands that nobody has run: %s", heading, blocks)
		}
	}
}

// world is a site with one sidecar, whose key API is restored.
type world struct {
	t    *testing.T
	site *testbed.Testbed
	keyd *testbed.Process
	ask  *testbed.CheckClient
}

const (
	shortLease    = time.Second
	shortMaxStale = 2 * time.Second
)

func newWorld(t *testing.T, bin string) *world {
	t.Helper()
	site, err := testbed.New(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := site.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, site: site}
	w.startKeyd()
	if _, err := site.StartAuthzd(t.Context(), "sidecar", testbed.Config{"cache": testbed.Config{"max_stale": "1s"}}); err != nil {
		t.Fatal(err)
	}
	if w.ask, err = site.CheckClient("sidecar"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.ask.Close)
	return w
}

func (w *world) startKeyd() {
	w.t.Helper()
	var err error
	w.keyd, err = w.site.StartKeyd(w.t.Context(), testbed.Config{"lease": shortLease.String(), "longest_max_stale": shortMaxStale.String()})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stopKeyd() {
	w.t.Helper()
	if code, err := w.keyd.Stop(syscall.SIGTERM); code != 0 || err != nil {
		w.t.Fatalf("keyd: exit %d, %v", code, err)
	}
}

func (w *world) mint(account string) testbed.Key {
	w.t.Helper()
	key, err := w.site.MintKey(w.t.Context(), account)
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

// says waits until the sidecar answers for the key with that reason.
func (w *world) says(key testbed.Key, reason string) {
	w.t.Helper()
	err := testbed.Until(w.t.Context(), func() error {
		a, err := w.ask.CheckAsEnvoy(w.t.Context(), key.Secret)
		if err == nil && a.Reason != reason {
			err = fmt.Errorf("%s, wanted %s", a.Reason, reason)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// saysNow is says of the next answer.
func (w *world) saysNow(key testbed.Key, reason string) {
	w.t.Helper()
	if a, err := w.ask.CheckAsEnvoy(w.t.Context(), key.Secret); err != nil || a.Reason != reason {
		w.t.Fatalf("%s, wanted %s (%v)", a.Reason, reason, err)
	}
}

// TestOperationsManual does what docs/operations.md says, for real: a key is revoked
// between the copy and the restore.
func TestOperationsManual(t *testing.T) {
	bin := t.TempDir()
	if err := testbed.Build(t.Context(), bin, "cmd/keyd", "cmd/authzd", "cmd/keyctl"); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, bin)
	store, backups := filepath.Join(w.site.Dir, "keys.db"), t.TempDir()
	m := readManual(t)
	delete(m.blocks, "PostgreSQL") // has a test of its own
	for name, value := range map[string]string{
		"PATH": bin + ":" + os.Getenv("PATH"), "KEYCTL_URL": "unix://" + w.site.Socket("operators"),
		"KEYCTL_TOKEN_FILE": filepath.Join(w.site.Dir, "operator.token"),
		"config":            filepath.Join(w.site.Dir, "keyd.yaml"), "store": store, "backups": backups,
	} {
		m.set(name, value)
	}
	// The same SQL by Python's SQLite where the program is not installed.
	m.prelude = "command -v sqlite3 >/dev/null || sqlite3() { python3 -c 'import sqlite3,sys; sqlite3.connect(sys.argv[1]).execute(sys.argv[2])' \"$@\"; }\n"

	account, err := w.site.CreateAccount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leaked, rolled, since, good := w.mint(account), w.mint(account), w.mint(account), w.mint(account)
	for _, key := range []testbed.Key{leaked, rolled, since, good} {
		w.says(key, "ok")
	}
	m.set("id", leaked.ID)
	m.set("other", rolled.ID)
	m.run("A key leaks")
	w.saysNow(leaked, "key_revoked")
	m.run("A key leaks")
	w.saysNow(rolled, "key_revoked")
	m.run("A key leaks")

	m.run("Take a copy") // its audit is taken again below: this one is as old as the copy
	copies, err := filepath.Glob(backups + "/keys-*.db")
	if err != nil || len(copies) != 1 {
		t.Fatal(copies, err)
	}
	if info, err := os.Stat(copies[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy: %v %v", info.Mode(), err)
	}
	m.set("id", since.ID)
	m.run("A region is cut off") // none is, but the commands are those: it revokes
	w.says(since, "key_revoked")
	w.says(good, "ok")
	exported := w.audit(m)

	w.stopKeyd()
	m.set("copy", copies[0])
	began := time.Now()
	m.run("Put a copy back")
	w.startKeyd()
	w.says(since, "ok") // it lives again, and the sidecar that knew better has asked
	w.says(good, "ok")
	w.says(leaked, "key_revoked")
	m.run("Put a copy back")

	again := missing(t, exported, w.audit(m))
	if len(again) != 1 || again[0].Action != "key.revoke" || again[0].Key != since.ID {
		t.Fatalf("since the copy: %v", again)
	}
	m.run("Put a copy back")
	if took := time.Since(began); took < shortLease+shortMaxStale {
		t.Errorf("a change was effective %s after the new epoch", took)
	}
	w.saysNow(since, "key_revoked")
	w.says(good, "ok")

	w.stopKeyd()
	m.run("The database is lost, and there is no copy")
	w.startKeyd()
	w.says(good, "key_unknown")
	m.done()
}

type event struct{ At, Action, Key string }

// audit is what keyctl audit exports.
func (w *world) audit(m *manual) []event {
	w.t.Helper()
	shell := exec.CommandContext(w.t.Context(), "bash", "-c", "keyctl audit -o json")
	shell.Env = m.env
	out, err := shell.Output()
	if err != nil {
		w.t.Fatal(err)
	}
	var list struct{ Events []event }
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&list); err != nil {
		w.t.Fatal(err)
	}
	return list.Events
}

// missing are the exported events above the newest that the store still has.
func missing(t *testing.T, exported, has []event) []event {
	t.Helper()
	for i, e := range exported {
		if e == has[0] {
			return exported[:i]
		}
	}
	t.Fatalf("%v is not among the exported", has[0])
	return nil
}
