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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// manual is docs/operations.md.
type manual struct {
	t       *testing.T
	blocks  map[string][]string // console blocks by heading that have not been run
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

// run runs the chapter's next block in a shell that stops at the first failure, and compares the output with the block.
func (m *manual) run(heading string) {
	m.t.Helper()
	if len(m.blocks[heading]) == 0 {
		m.t.Fatalf("chapter %q has no more commands", heading)
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
		m.t.Errorf("%s: documented\n%s\nprinted\n%s", heading, shown, out)
	}
}

// checkAllRun fails if a command of the manual was not run.
func (m *manual) checkAllRun() {
	for heading, blocks := range m.blocks {
		if len(blocks) > 0 {
			m.t.Errorf("chapter %q has untested commands: %s", heading, blocks)
		}
	}
}

// cluster is a keyd with one sidecar.
type cluster struct {
	*testbed.Testbed
	t       *testing.T
	keyd    *testbed.Process
	checks  *testbed.CheckClient // of the sidecar
	account string
}

const (
	shortLease    = time.Second
	shortMaxStale = 2 * time.Second
)

var (
	programsDir string // removed after all tests
	// programs builds the programs of clusters.
	programs = sync.OnceValues(func() (dir string, err error) {
		if programsDir, err = os.MkdirTemp("", "programs"); err == nil {
			err = testbed.Build(context.Background(), programsDir, "cmd/keyd", "cmd/authzd", "cmd/keyctl")
		}
		return programsDir, err
	})
)

func newCluster(t *testing.T) *cluster {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	tb, err := testbed.New(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tb.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{t: t, Testbed: tb}
	c.startKeyd()
	if _, err := tb.StartAuthzd(t.Context(), "sidecar", testbed.Config{"cache": testbed.Config{"max_stale": "1s"}}); err != nil {
		t.Fatal(err)
	}
	if c.checks, err = tb.CheckClient("sidecar"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.checks.Close)
	if c.account, err = tb.CreateAccount(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) startKeyd() {
	c.t.Helper()
	var err error
	c.keyd, err = c.StartKeyd(c.t.Context(), testbed.Config{"lease": shortLease.String(), "longest_max_stale": shortMaxStale.String()})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) stopKeyd() {
	c.t.Helper()
	if code, err := c.keyd.Stop(syscall.SIGTERM); code != 0 || err != nil {
		c.t.Fatalf("keyd: exit %d, %v", code, err)
	}
}

func (c *cluster) mint() testbed.Key {
	c.t.Helper()
	key, err := c.MintKey(c.t.Context(), c.account)
	if err != nil {
		c.t.Fatal(err)
	}
	return key
}

// awaitReason waits until the sidecar answers a check of the key with the reason.
func (c *cluster) awaitReason(key testbed.Key, reason string) {
	c.t.Helper()
	err := testbed.Until(c.t.Context(), func() error {
		a, err := c.checks.CheckAsEnvoy(c.t.Context(), key.Secret)
		if err == nil && a.Reason != reason {
			err = fmt.Errorf("%s, want %s", a.Reason, reason)
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// checkReason sends one check of the key, which must be answered with the reason.
func (c *cluster) checkReason(key testbed.Key, reason string) {
	c.t.Helper()
	if a, err := c.checks.CheckAsEnvoy(c.t.Context(), key.Secret); err != nil || a.Reason != reason {
		c.t.Fatalf("%s, want %s (%v)", a.Reason, reason, err)
	}
}

// All commands of the manual are run. A key is revoked between the backup and the restore.
func TestOperationsManual(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	store, backups := filepath.Join(c.Dir, "keys.db"), t.TempDir()
	m := readManual(t)
	delete(m.blocks, "PostgreSQL") // see TestOperationsManualOnPostgres
	for name, value := range map[string]string{
		"PATH": bin + ":" + os.Getenv("PATH"), "KEYCTL_URL": "unix://" + c.Socket("operators"),
		"KEYCTL_TOKEN_FILE": filepath.Join(c.Dir, "operator.token"),
		"config":            filepath.Join(c.Dir, "keyd.yaml"), "store": store, "backups": backups,
	} {
		m.set(name, value)
	}
	// Without sqlite3, Python's SQLite runs the same SQL.
	m.prelude = "command -v sqlite3 >/dev/null || sqlite3() { python3 -c 'import sqlite3,sys; sqlite3.connect(sys.argv[1]).execute(sys.argv[2])' \"$@\"; }\n"

	leaked, rolled, since, good := c.mint(), c.mint(), c.mint(), c.mint()
	for _, key := range []testbed.Key{leaked, rolled, since, good} {
		c.awaitReason(key, "ok")
	}
	m.set("id", leaked.ID)
	m.set("other", rolled.ID)
	m.run("A key leaks")
	c.checkReason(leaked, "key_revoked")
	m.run("A key leaks")
	c.checkReason(rolled, "key_revoked")
	m.run("A key leaks")

	m.run("Take a copy") // its audit is exported again below
	copies, err := filepath.Glob(backups + "/keys-*.db")
	if err != nil || len(copies) != 1 {
		t.Fatal(copies, err)
	}
	if info, err := os.Stat(copies[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("backup: %v %v", info.Mode(), err)
	}
	m.set("id", since.ID)
	m.run("A region is cut off") // the chapter revokes a key
	c.awaitReason(since, "key_revoked")
	c.awaitReason(good, "ok")
	exported := c.audit(m)

	c.stopKeyd()
	m.set("copy", copies[0])
	began := time.Now()
	m.run("Restore a copy")
	c.startKeyd()
	c.awaitReason(since, "ok") // active again, also in the cache of the sidecar
	c.awaitReason(good, "ok")
	c.awaitReason(leaked, "key_revoked")
	m.run("Restore a copy")

	again := missing(t, exported, c.audit(m))
	if len(again) != 1 || again[0].Action != "key.revoke" || again[0].Key != since.ID {
		t.Fatalf("events after the backup: %v", again)
	}
	m.run("Restore a copy")
	if took := time.Since(began); took < shortLease+shortMaxStale {
		t.Errorf("effective %s after the new epoch", took)
	}
	c.checkReason(since, "key_revoked")
	c.awaitReason(good, "ok")

	c.stopKeyd()
	m.run("The database is lost without a copy")
	c.startKeyd()
	c.awaitReason(good, "key_unknown")
	m.checkAllRun()
}

type event struct{ At, Action, Key string }

// audit returns the events of keyctl audit.
func (c *cluster) audit(m *manual) []event {
	c.t.Helper()
	shell := exec.CommandContext(c.t.Context(), "bash", "-c", "keyctl audit -o json")
	shell.Env = m.env
	out, err := shell.Output()
	if err != nil {
		c.t.Fatal(err)
	}
	var list struct{ Events []event }
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&list); err != nil {
		c.t.Fatal(err)
	}
	return list.Events
}

// missing returns the exported events that are newer than those of the store.
func missing(t *testing.T, exported, has []event) []event {
	t.Helper()
	for i, e := range exported {
		if e == has[0] {
			return exported[:i]
		}
	}
	t.Fatalf("%v was not exported", has[0])
	return nil
}
