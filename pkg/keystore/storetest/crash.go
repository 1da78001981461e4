package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const (
	crashPlace   = "STORETEST_CRASH_PLACE"  // set in the child: the place of its store
	crashRounds  = "STORETEST_CRASH_ROUNDS" // how often Crash kills the child
	crashAccount = "acc_crash"
	crashImport  = 20 // keys of one import
)

// Opener opens the engine's store at a place.
type Opener func(ctx context.Context, place string) (keystore.Store, error)

// CrashChild must be called first in the TestMain of an engine that runs Crash. In the child process of Crash it writes until
// it is killed. In any other process it returns immediately.
func CrashChild(open Opener) {
	place := os.Getenv(crashPlace)
	if place == "" {
		return
	}
	fmt.Fprintln(os.Stderr, "crash child:", writeUntilKilled(context.Background(), open, place))
	os.Exit(1)
}

// Crash kills a process in the middle of its writes and opens the store again, 10 times or as often as the environment
// variable STORETEST_CRASH_ROUNDS says: every acknowledged change is there, whole, and revisions are dense.
func Crash(t *testing.T, open Opener, place string) {
	rounds := 10
	if s := os.Getenv(crashRounds); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", crashRounds, err)
		}
	}
	acked := acknowledged{keys: map[string]bool{}, sidecars: map[string]int64{}}
	for round := range rounds {
		acked.killChild(t, place, 5+rand.IntN(40))
		s, err := open(t.Context(), place)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		acked.check(newEnv(t, Harness{Store: s, Close: func() {}}))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d rounds, %d keys and %d polls acknowledged", rounds, len(acked.keys), len(acked.sidecars))
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
	keys := numberedKeys("import-"+id, crashAccount, crashImport)
	if _, err := s.ImportKeys(ctx, actor, keys); err != nil {
		return err
	}
	fmt.Println("key", keys[0].ID, 0)
	return nil
}

// acknowledged has the changes that the store acknowledged to the children.
type acknowledged struct {
	keys     map[string]bool // id; whether revoked
	sidecars map[string]int64
}

// killChild starts a child, kills it after that many lines, and reads the rest of its output: the store had acknowledged each
// line.
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
		t.Fatalf("the child exited after %d lines", read)
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
	keys := map[string]keystore.Key{}
	for _, k := range e.keys(crashAccount) {
		keys[k.ID] = k
		if k.State == credential.Revoked {
			revoked++
		} else if a.keys[k.ID] {
			e.Fatalf("%s was revoked and is active", k.ID)
		}
	}
	for id := range a.keys {
		if keys[id].ID == "" {
			e.Fatalf("%s was created and does not exist", id)
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
	onRecord := map[string]int64{}
	for _, s := range pages(e, 1000, func(ctx context.Context, p keystore.Page) ([]keystore.Sidecar, string, error) {
		_, list, next, err := e.Sidecars(ctx, p)
		return list, next, err
	}) {
		onRecord[s.Name] = s.Revision
	}
	for name, revision := range a.sidecars {
		e.same("acknowledged by "+name, onRecord[name], revision)
	}
	// Each change is whole: its object, its log row and its event.
	head := e.head()
	e.same("revision", head.Revision, int64(1+len(keys)+revoked))
	e.same("events", len(e.events()), 1+len(keys)+revoked)
	for at := int64(0); at < head.Revision; {
		for _, c := range e.changes(at) {
			e.same("revision of the next change", c.Revision, at+1)
			at = c.Revision
		}
	}
}

// ConcurrentOpen opens a new store several times at the same time, and again while another one has it open: all succeed, and
// there is one log.
func ConcurrentOpen(t *testing.T, open Opener, place string) {
	t.Helper()
	var g errgroup.Group
	epochs := make([]string, 6)
	for i := range epochs {
		g.Go(func() error {
			s, err := open(t.Context(), place)
			if err != nil {
				return err
			}
			head, err := s.Head(t.Context())
			epochs[i] = head.Epoch
			return errors.Join(err, s.Close())
		})
	}
	if err := g.Wait(); err != nil || len(slices.Compact(epochs)) != 1 {
		t.Fatalf("epochs %v, %v", epochs, err)
	}
}
