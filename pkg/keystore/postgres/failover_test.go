package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

func start(t *testing.T, settings ...string) *pgtest.Server {
	t.Helper()
	s, err := pgtest.Start(t.Context(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Remove() })
	return s
}

// load writes and polls until it is stopped, also during outages, and notes what was acknowledged.
type load struct {
	store *postgres.Store
	stop  atomic.Bool
	work  errgroup.Group
	done  atomic.Int64 // calls that succeeded
	fails atomic.Int64

	mu    sync.Mutex
	acked map[string]int64 // revisions by the id of the key
}

func begin(store *postgres.Store) *load {
	l := &load{store: store, acked: map[string]int64{}}
	for range 4 {
		l.work.Go(func() error { return l.repeat(l.mint) })
	}
	for i := range 3 {
		l.work.Go(func() error {
			return l.repeat(func(ctx context.Context) error { return l.poll(ctx, fmt.Sprintf("sidecar_%p_%d", l, i)) })
		})
	}
	return l
}

func (l *load) repeat(do func(context.Context) error) error {
	for !l.stop.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		err := do(ctx)
		cancel()
		var conflict *keystore.Conflict
		switch {
		case err == nil:
			l.done.Add(1)
		case errors.Is(err, keystore.ErrNotFound), errors.As(err, &conflict):
			return err // not caused by an outage
		default:
			l.fails.Add(1)
			<-time.After(10 * time.Millisecond)
		}
	}
	return nil
}

func (l *load) mint(ctx context.Context) error {
	id := credential.RandomBase62(16)
	k, err := mint(ctx, l.store, id)
	if err == nil {
		l.mu.Lock()
		l.acked[id] = k.Revision
		l.mu.Unlock()
	}
	return err
}

// lastPoll is the number of the last poll of all loads.
var lastPoll atomic.Int64

// poll also checks that a reader of a head sees every change up to it.
func (l *load) poll(ctx context.Context, name string) error {
	p := keystore.Poll{Sidecar: name, Number: lastPoll.Add(1), Revision: -1}
	head, _, err := l.store.RecordPoll(ctx, p)
	if !errors.Is(err, keystore.ErrGone) {
		return err
	}
	p = keystore.Poll{Sidecar: name, Number: lastPoll.Add(1), Epoch: head.Epoch, Revision: head.Revision, Limit: 1_000_000, Lease: time.Minute}
	if head, _, err = l.store.RecordPoll(ctx, p); err != nil && !errors.Is(err, keystore.ErrGone) {
		return err
	}
	now, changes, err := l.store.Changes(ctx, head.Epoch, 0, 1_000_000)
	if errors.Is(err, keystore.ErrGone) && now.Epoch != head.Epoch {
		return nil
	}
	if err == nil && int64(len(changes)) != now.Revision {
		return keystore.Conflictf("%d changes up to revision %d", len(changes), now.Revision)
	}
	return err
}

// waitFor waits until that many more calls have succeeded.
func (l *load) waitFor(t *testing.T, calls int64) {
	t.Helper()
	until := time.Now().Add(30 * time.Second)
	for from := l.done.Load(); l.done.Load() < from+calls; <-time.After(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d calls succeeded, %d failed", l.done.Load(), l.fails.Load())
		}
	}
}

// end stops the load. It checks that nothing acknowledged is lost, and whether calls failed.
func (l *load) end(t *testing.T, outage bool) {
	t.Helper()
	l.stop.Store(true)
	if err := l.work.Wait(); err != nil {
		t.Error(err)
	}
	for id, revision := range l.acked {
		if k, err := l.store.Key(t.Context(), id); err != nil || k.Revision != revision {
			t.Fatalf("key %s of revision %d: %+v, %v", id, revision, k, err)
		}
	}
	if got := l.fails.Load(); (got > 0) != outage {
		t.Errorf("%d calls failed", got)
	}
	t.Logf("%d calls succeeded, %d failed, %d keys", l.done.Load(), l.fails.Load(), len(l.acked))
}

// The server is restarted, and then crashes, under load.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := start(t)
	store := withAccount(t, database(t, server))
	defer mustClose(t, store)
	before, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := begin(store)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		l.waitFor(t, 50)
		if err := server.Stop(sig); err != nil {
			t.Fatal(err)
		}
		if err := server.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.waitFor(t, 50)
	l.end(t, true)
	after, err := store.Head(t.Context())
	if err != nil || after.Epoch != before.Epoch || !after.NotBefore.IsZero() {
		t.Fatalf("%+v, before %+v: %v", after, before, err)
	}
}

// The primary is killed under load and its standby, which has every commit, is promoted.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := start(t, "synchronous_standby_names=*", "synchronous_commit=local")
	name, err := primary.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Remove() })
	if err := primary.Exec(t.Context(), "postgres", "ALTER DATABASE "+name+" SET synchronous_commit = on"); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("postgres://postgres@/%s?host=%s,%s&port=%d,%d", name, primary.Dir, standby.Dir, primary.Port, standby.Port)
	store, err := postgres.Open(t.Context(), url, postgres.Options{Unknown: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, store)
	if _, err := store.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	if s, err := postgres.Open(t.Context(), standby.URL(name), postgres.Options{}); err == nil {
		mustClose(t, s)
		t.Fatal("a standby was accepted")
	} else if !strings.Contains(err.Error(), "standby") {
		t.Fatal(err)
	}
	before, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := begin(store)
	l.waitFor(t, 100)
	killed := time.Now()
	if err := primary.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.waitFor(t, 100)
	l.end(t, true)

	after, err := store.Head(t.Context())
	if err != nil || after.Epoch == before.Epoch || after.Revision <= before.Revision {
		t.Fatalf("%+v, before %+v: %v", after, before, err)
	}
	// The new server cannot know that it has every lease.
	if after.NotBefore.Before(killed.Add(time.Hour)) || after.NotBefore.After(time.Now().Add(time.Hour)) {
		t.Errorf("no change is effective before %v, at %v", after.NotBefore, killed)
	}
	if _, _, err := store.Changes(t.Context(), before.Epoch, before.Revision, 10); !errors.Is(err, keystore.ErrGone) {
		t.Errorf("the old epoch: %v", err)
	}
	if _, _, err := store.RecordPoll(t.Context(), keystore.Poll{Sidecar: "s", Number: 2, Epoch: before.Epoch, Lease: time.Minute}); !errors.Is(err, keystore.ErrGone) {
		t.Errorf("a poll of the old epoch: %v", err)
	}
	again, err := store.Head(t.Context())
	if again.Now = after.Now; err != nil || again != after {
		t.Errorf("%+v, and then %+v: %v", after, again, err)
	}
}

// An older copy of the server is started after a key was revoked: the key is active again, and every sidecar gets a new epoch
// at its next poll.
func TestRestoredCopy(t *testing.T) {
	t.Parallel()
	original := start(t)
	name, err := original.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	store := withAccount(t, original.URL(name))
	k, err := mint(t.Context(), store, "key_1")
	if err != nil {
		t.Fatal(err)
	}
	copied, err := original.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = copied.Remove() })
	if err := copied.Stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := store.RevokeKey(t.Context(), "operator:test", k.ID, ""); err != nil {
		t.Fatal(err)
	}
	head, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before, _, err := store.RecordPoll(t.Context(), keystore.Poll{Sidecar: "s", Number: 1, Epoch: head.Epoch, Revision: head.Revision, Limit: 1, Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, store)
	if err := original.Stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := copied.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := copied.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	restored, err := postgres.Open(t.Context(), copied.URL(name), postgres.Options{Unknown: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, restored)
	var facts []keystore.Fact
	head, facts, err = restored.Resolve(t.Context(), []credential.Digest{k.Digest})
	if err != nil || facts[0].Record.State != credential.Active || head.Revision != k.Revision {
		t.Fatalf("%+v at %+v: %v", facts, head, err)
	}
	if head.Epoch == before.Epoch || head.NotBefore.Before(head.Now.Add(time.Hour-time.Minute)) {
		t.Errorf("%+v, before %+v", head, before)
	}
	if _, _, err := restored.RecordPoll(t.Context(), keystore.Poll{Sidecar: "s", Number: 2, Epoch: before.Epoch, Lease: time.Minute}); !errors.Is(err, keystore.ErrGone) {
		t.Errorf("a poll of the old epoch: %v", err)
	}
}

// throughPooler returns two replicas behind a pooler that gives each transaction another session.
func throughPooler(t *testing.T) (a, b *postgres.Store) {
	t.Helper()
	pooler, err := server.Pooler(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pooler.Remove() })
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a = withAccount(t, pooler.URL(name))
	t.Cleanup(func() { mustClose(t, a) })
	b = open(t, pooler.URL(name), postgres.Options{})
	t.Cleanup(func() { mustClose(t, b) })
	return a, b
}

// Two replicas share five sessions, and each transaction gets another one.
func TestThroughPooler(t *testing.T) {
	t.Parallel()
	a, b := throughPooler(t)
	loads := []*load{begin(a), begin(b)}
	for _, l := range loads {
		l.waitFor(t, 100)
	}
	for _, l := range loads {
		l.end(t, false)
	}
	used := keystore.Usage{Digest: credential.NewSecret("unknown").Digest(), LastUsedAt: time.Now()}
	if err := a.RecordUsage(t.Context(), "s", []keystore.Usage{used}); err != nil {
		t.Error(err)
	}
	if _, _, err := b.Keys(t.Context(), "acc", keystore.Page{Limit: 10}); err != nil {
		t.Error(err)
	}
}
