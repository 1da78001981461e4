package storetest

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const (
	crashPlace   = "STORETEST_CRASH_PLACE"  // set in the child: where its store is
	crashRounds  = "STORETEST_CRASH_ROUNDS" // how often Crash kills
	crashAccount = "acc_crash"
)

// Opener opens the engine's store at a place.
type Opener func(ctx context.Context, place string) (keystore.Store, error)

// CrashChild is to be called first in the TestMain of an engine that runs Crash.
// In the child process that Crash starts it writes until it is killed; in any other it
// returns at once.
func CrashChild(open Opener) {
	place := os.Getenv(crashPlace)
	if place == "" {
		return
	}
	fmt.Fprintln(os.Stderr, "crash child:", writeUntilKilled(context.Background(), open, place))
	os.Exit(1)
}

// Crash kills a process in the middle of its writes, 30 times or as often as the
// environment's STORETEST_CRASH_ROUNDS says, and opens the store again: every
// change that it was told of is there, whole, and revisions are dense.
func Crash(t *testing.T, open Opener, place string) {
	rounds := 30
	if s := os.Getenv(crashRounds); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", crashRounds, err)
		}
	}
	told := acknowledged{keys: map[string]bool{}, sidecars: map[string]int64{}}
	for round := range rounds {
		told.killChild(t, place, 5+rand.IntN(40))
		s, err := open(t.Context(), place)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		told.check(newEnv(t, Harness{Store: s, Close: func() {}}))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d rounds, %d keys and %d polls told of", rounds, len(told.keys), len(told.sidecars))
}

func writeUntilKilled(ctx context.Context, open Opener, place string) error {
	s, err := open(ctx, place)
	if err != nil {
		return err
	}
	if _, err := s.Account(ctx, crashAccount); err != nil {
		if _, err := s.CreateAccount(ctx, actor, crashAccount, "crash"); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for range 4 {
		g.Go(func() error {
			for {
				if err := writeOnce(ctx, s); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// writeOnce prints a line for each change when the store has acknowledged it.
func writeOnce(ctx context.Context, s keystore.Store) error {
	id := credential.RandomBase62(16)
	if _, err := s.CreateKey(ctx, actor, keystore.NewKey{ID: id, Account: crashAccount, Digest: digestOf(id)}); err != nil {
		return err
	}
	fmt.Println("key", id, 0)
	k, err := s.RevokeKey(ctx, actor, id, "")
	if err != nil {
		return err
	}
	fmt.Println("revoked", id, 0)
	head, err := s.Head(ctx)
	if err != nil {
		return err
	}
	if err := record(ctx, s, keystore.Poll{Sidecar: id, Epoch: head.Epoch, Revision: k.Revision, Lease: time.Hour}); err != nil {
		return err
	}
	fmt.Println("poll", id, k.Revision)
	return importOnce(ctx, s, id)
}

// crashImport is how many keys an import has.
const crashImport = 20

func importOnce(ctx context.Context, s keystore.Store, id string) error {
	keys := make([]keystore.NewKey, crashImport)
	for i := range keys {
		id := fmt.Sprintf("import-%s-%d", id, i)
		keys[i] = keystore.NewKey{ID: id, Account: crashAccount, Digest: digestOf(id)}
	}
	if _, err := s.ImportKeys(ctx, actor, keys); err != nil {
		return err
	}
	fmt.Println("key", keys[0].ID, 0)
	return nil
}

// acknowledged is what the children were told.
type acknowledged struct {
	keys     map[string]bool // id; whether revoked
	sidecars map[string]int64
}

// killChild lets a child write until so many lines were read, and reads on until
// its end: what it printed it had been told.
func (a *acknowledged) killChild(t *testing.T, place string, lines int) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), crashPlace+"="+place)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	read := 0
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if read++; read == lines {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		a.note(t, scan.Text())
	}
	_ = child.Wait() // it was killed
	if read < lines {
		t.Fatalf("the child ended by itself after %d lines", read)
	}
}

func (a *acknowledged) note(t *testing.T, line string) {
	var what, id string
	var revision int64
	if _, err := fmt.Sscan(line, &what, &id, &revision); err != nil {
		t.Fatalf("the child printed %q: %v", line, err)
	}
	switch what {
	case "key":
		a.keys[id] = false
	case "revoked":
		a.keys[id] = true
	case "poll":
		a.sidecars[id] = revision
	}
}

func (a *acknowledged) check(e *env) {
	e.Helper()
	revoked := 0
	keys := e.everyKey(crashAccount)
	for id, k := range keys {
		if k.State == credential.Revoked {
			revoked++
		} else if a.keys[id] {
			e.Fatalf("%s was revoked and is not", id)
		}
	}
	for id := range a.keys {
		if keys[id].ID == "" {
			e.Fatalf("%s was made and is not there", id)
		}
	}
	imports := map[string]int{}
	for id := range keys {
		if parts := strings.Split(id, "-"); len(parts) == 3 {
			imports[parts[1]]++
		}
	}
	for id, n := range imports {
		e.same("keys of import "+id, n, crashImport)
	}
	head := e.head()
	onRecord := map[string]int64{}
	for page := (keystore.Page{Limit: 1000}); ; {
		_, sidecars, next, err := e.Sidecars(e.ctx, page)
		e.ok(err)
		for _, s := range sidecars {
			onRecord[s.Name] = s.Revision
		}
		if page.After = next; next == "" {
			break
		}
	}
	for name, revision := range a.sidecars {
		e.same("acknowledged by "+name, onRecord[name], revision)
	}
	// Each change is whole: its object, its log row and its event.
	e.same("revision", head.Revision, int64(1+len(keys)+revoked))
	e.same("events", e.countEvents(), 1+len(keys)+revoked)
	at := int64(0)
	for at < head.Revision {
		_, changes, err := e.Changes(e.ctx, head.Epoch, at, 1000)
		e.ok(err)
		for _, c := range changes {
			e.same("revision of the next change", c.Revision, at+1)
			at = c.Revision
		}
	}
}

func (e *env) everyKey(account string) map[string]keystore.Key {
	e.Helper()
	keys := map[string]keystore.Key{}
	for page := (keystore.Page{Limit: 1000}); ; {
		list, next, err := e.Keys(e.ctx, account, page)
		e.ok(err)
		for _, k := range list {
			keys[k.ID] = k
		}
		if page.After = next; next == "" {
			return keys
		}
	}
}

func (e *env) countEvents() (n int) {
	e.Helper()
	for page := (keystore.Page{Limit: 1000}); ; {
		list, next, err := e.Events(e.ctx, "", "", page)
		e.ok(err)
		n += len(list)
		if page.After = next; next == "" {
			return n
		}
	}
}
