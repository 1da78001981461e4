package storetest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// testModel makes random calls of the store and of the model. After each call it compares everything that can be read.
func testModel(t *testing.T, open func(t *testing.T) Harness) {
	// Each step waits for the disk. For a long run: -rapid.checks=2000.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("12"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		h := open(t)
		head, err := h.Store.Head(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		mc := &machine{h: h, ctx: t.Context(), model: model{epoch: head.Epoch, sidecars: map[string]*modelSidecar{}}}
		defer func() { mc.h.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"account": mc.account, "state": mc.state, "key": mc.key, "imports": mc.imports, "revoke": mc.revoke, "chain": mc.chain,
			"roll": mc.roll, "scope": mc.scope, "session": mc.session, "end": mc.end, "use": mc.use, "poll": mc.poll, "forget": mc.forget,
			"prune": mc.prune, "epoch": mc.newEpoch, "time": mc.time, "reopen": mc.reopen, "": mc.check,
		})
	})
}

// machine calls a store and its model.
type machine struct {
	h      Harness
	ctx    context.Context
	model  model
	made   int
	polls  int64                       // the number of the last poll
	stated map[int64]keystore.Progress // of each change, when last read
}

// pick returns one of a few names, so that steps meet.
func pick(t *rapid.T, kind string, n int) string {
	return fmt.Sprintf("%s_%d", kind, rapid.IntRange(0, n).Draw(t, kind))
}

func anyDigest(t *rapid.T) credential.Digest { return digestOf(pick(t, "secret", 12)) }

func minutes(t *rapid.T, label string) time.Duration {
	return time.Duration(rapid.IntRange(0, 9).Draw(t, label)) * time.Minute
}

// anyKey is the id of a key, or an unknown one.
func (mc *machine) anyKey(t *rapid.T) string {
	ids := []string{"key_none"}
	for _, k := range mc.model.keys {
		ids = append(ids, k.ID)
	}
	return rapid.SampledFrom(ids).Draw(t, "key")
}

func (mc *machine) id(kind string) string {
	mc.made++
	return fmt.Sprintf("%s_%d", kind, mc.made)
}

// anyOwner is the key's account, another one, or "".
func (mc *machine) anyOwner(t *rapid.T, key string) string {
	owners := []string{"", pick(t, "acc", 2)}
	if k := mc.model.key(key); k != nil {
		owners = append(owners, k.Account)
	}
	return rapid.SampledFrom(owners).Draw(t, "owner")
}

// store sets the model's time to the store's, and returns the store.
func (mc *machine) store(t *rapid.T) keystore.Store {
	head, err := mc.h.Store.Head(mc.ctx)
	if err != nil {
		t.Fatal(err)
	}
	mc.model.now = head.Now
	return mc.h.Store
}

func same(t *rapid.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateApproxTime(time.Second), cmpopts.IgnoreMapEntries(func(k, _ string) bool {
		return k == "expires_at" // a time as text
	})); diff != "" {
		t.Fatalf("%s (-model +store):\n%s", what, diff)
	}
}

// outcome compares the outcomes of a step.
func outcome(t *rapid.T, err error, want string) (ok bool) {
	t.Helper()
	var c *keystore.Conflict
	got := done
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		got = notFound
	case errors.Is(err, keystore.ErrGone):
		got = gone
	case errors.As(err, &c):
		got = conflict
	case err != nil:
		got = err.Error()
	}
	if got != want {
		t.Fatalf("the outcome is %q (%v), in the model %q", got, err, want)
	}
	return err == nil
}

func (mc *machine) account(t *rapid.T) {
	id := pick(t, "acc", 2)
	a, err := mc.store(t).CreateAccount(mc.ctx, actor, id, "name")
	if outcome(t, err, mc.model.createAccount(id)) {
		same(t, "account", a, *mc.model.account(id))
	}
}

func (mc *machine) state(t *rapid.T) {
	id, state := pick(t, "acc", 2), rapid.SampledFrom([]credential.State{credential.Active, credential.Terminated}).Draw(t, "state")
	a, err := mc.store(t).SetAccountState(mc.ctx, actor, id, state)
	if outcome(t, err, mc.model.setState(id, state)) {
		same(t, "account", a, *mc.model.account(id))
	}
}

func (mc *machine) key(t *rapid.T) {
	n := keystore.NewKey{
		ID: mc.id("key"), Account: pick(t, "acc", 2), Label: "label", Hint: "hint", Digest: anyDigest(t),
		Scopes:   credential.NewScopes(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "scope")),
		Imported: rapid.Bool().Draw(t, "imported"), Limit: rapid.IntRange(0, 3).Draw(t, "limit"),
	}
	ttl := minutes(t, "ttl")
	store := mc.store(t)
	if ttl > 0 {
		n.ExpiresAt = mc.model.now.Add(ttl)
	}
	k, err := store.CreateKey(mc.ctx, actor, n)
	if outcome(t, err, mc.model.createKey(n)) {
		same(t, "key", k, *mc.model.key(n.ID))
	}
}

func (mc *machine) revoke(t *rapid.T) {
	id := mc.anyKey(t)
	owner := mc.anyOwner(t, id)
	k, err := mc.store(t).RevokeKey(mc.ctx, actor, id, owner)
	if outcome(t, err, mc.model.revokeKey(id, owner)) {
		same(t, "key", k, *mc.model.key(id))
	}
}

func (mc *machine) chain(t *rapid.T) {
	id := mc.anyKey(t)
	owner := mc.anyOwner(t, id)
	got, err := mc.store(t).RevokeChain(mc.ctx, actor, id, owner)
	want, how := mc.model.revokeChain(id, owner)
	if outcome(t, err, how) {
		same(t, "chain", got, want)
	}
}

func (mc *machine) roll(t *rapid.T) {
	r := keystore.Roll{ID: mc.anyKey(t), NewID: mc.id("key"), Digest: anyDigest(t), Hint: "next", Grace: minutes(t, "grace")}
	r.Account = mc.anyOwner(t, r.ID)
	next, old, err := mc.store(t).RollKey(mc.ctx, actor, r)
	if outcome(t, err, mc.model.rollKey(r)) {
		same(t, "successor", next, *mc.model.key(r.NewID))
		same(t, "replaced", old, *mc.model.key(r.ID))
	}
}

func (mc *machine) scope(t *rapid.T) {
	id, scope := mc.anyKey(t), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "scope")
	granted := rapid.Bool().Draw(t, "granted")
	k, err := mc.store(t).SetKeyScope(mc.ctx, actor, id, scope, granted)
	if outcome(t, err, mc.model.setScope(id, scope, granted)) {
		same(t, "key", k, *mc.model.key(id))
	}
}

func (mc *machine) session(t *rapid.T) {
	n := keystore.NewSession{ID: mc.id("ses"), Account: pick(t, "acc", 2), Digest: anyDigest(t), TTL: minutes(t, "ttl")}
	s, err := mc.store(t).CreateSession(mc.ctx, actor, n)
	if outcome(t, err, mc.model.createSession(n)) {
		same(t, "session", s, mc.model.session(n.ID).Session)
	}
}

func (mc *machine) end(t *rapid.T) {
	ids := []string{"ses_none"}
	for _, s := range mc.model.sessions {
		ids = append(ids, s.ID)
	}
	id := rapid.SampledFrom(ids).Draw(t, "session")
	s, err := mc.store(t).EndSession(mc.ctx, actor, id)
	if outcome(t, err, mc.model.endSession(id)) {
		same(t, "session", s, mc.model.session(id).Session)
	}
}

func (mc *machine) use(t *rapid.T) {
	d, ago := anyDigest(t), minutes(t, "ago")
	store := mc.store(t)
	at := mc.model.now.Add(5*time.Minute - ago)
	outcome(t, store.RecordUsage(mc.ctx, "s", []keystore.Usage{{Digest: d, LastUsedAt: at, Allowed: 1}}), done)
	mc.model.use(d, at)
}

func (mc *machine) poll(t *rapid.T) {
	p := keystore.Poll{
		Sidecar:  pick(t, "sidecar", 3),
		Epoch:    rapid.SampledFrom([]string{mc.model.epoch, mc.model.epoch, mc.model.epoch, "other"}).Draw(t, "epoch"),
		Revision: rapid.Int64Range(-1, mc.model.revision()+1).Draw(t, "revision"),
		Limit:    rapid.SampledFrom([]int{2, 1000, 1000}).Draw(t, "limit"),
		Lease:    time.Minute, MaxStale: minutes(t, "stale"),
		Leave: rapid.IntRange(0, 7).Draw(t, "leave") == 7,
	}
	mc.polls += rapid.Int64Range(1, 3).Draw(t, "skip")
	p.Number = mc.polls
	if known := mc.model.sidecars[p.Sidecar]; known != nil && rapid.IntRange(0, 5).Draw(t, "repeat") == 5 {
		p.Number = max(1, known.Poll-rapid.Int64Range(0, 3).Draw(t, "late"))
	}
	head, lease, err := mc.store(t).RecordPoll(mc.ctx, p)
	want, how := mc.model.poll(p)
	outcome(t, err, how)
	same(t, "lease", time.Time{}.Add(lease), time.Time{}.Add(want))
	if how != conflict {
		same(t, "head", head, mc.model.head())
	}
}

func (mc *machine) forget(t *rapid.T) {
	name := pick(t, "sidecar", 3)
	was := mc.model.sidecars[name]
	got, err := mc.store(t).Forget(mc.ctx, actor, name)
	if outcome(t, err, mc.model.forget(name)) {
		want := was.Sidecar
		want.Gone, got.Grants = false, nil
		same(t, "forgotten", got, want)
	}
}

func (mc *machine) prune(t *rapid.T) {
	retention := minutes(t, "retention") + time.Minute
	outcome(t, mc.store(t).Prune(mc.ctx, retention), done)
	mc.model.prune(retention)
}

func (mc *machine) newEpoch(t *rapid.T) {
	wait := minutes(t, "wait") + time.Minute
	m := &mc.model
	head, err := mc.store(t).NewEpoch(mc.ctx, wait)
	outcome(t, err, done)
	if head.Epoch == m.epoch {
		t.Fatal("the epoch is the old one")
	}
	m.epoch = head.Epoch
	ever, live := m.largest()
	least := latest(m.notBefore, m.now.Add(wait), m.now.Add(live))
	most := latest(least, m.now.Add(ever))
	if head.NotBefore.Before(least) || head.NotBefore.After(most.Add(time.Second)) {
		t.Fatalf("no change is effective before %v, want %v to %v", head.NotBefore, least, most)
	}
	m.notBefore = head.NotBefore
	mc.stated = nil // only a new epoch makes changes effective later
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// time never stops exactly where something ends.
func (mc *machine) time(t *rapid.T) { mc.h.Advance(minutes(t, "minutes") + 7*time.Millisecond) }

func (mc *machine) reopen(*rapid.T) { mc.h.Store = mc.h.Reopen() }

// check compares everything that can be read.
func (mc *machine) check(t *rapid.T) {
	s, m, all := mc.store(t), &mc.model, keystore.Page{Limit: 1000}
	head, sidecars, err := listSidecars(mc.ctx, s)
	outcome(t, err, done)
	same(t, "head", head, m.head())
	mc.checkProgress(t, head, sidecars)
	revision := rapid.Int64Range(0, head.Revision+1).Draw(t, "change")
	_, progress, err := s.Progress(mc.ctx, revision)
	outcome(t, err, done)
	same(t, "progress", progress, mc.model.progress(revision))
	at, leases, err := s.Leases(mc.ctx)
	outcome(t, err, done)
	same(t, "head of the leases", at, m.head())
	same(t, "leases", leases, mc.model.leases())
	for i := range sidecars {
		sidecars[i].Grants = nil // the model computes the progress without them
	}
	same(t, "sidecars", sidecars, m.listed())

	accounts, _, err := s.Accounts(mc.ctx, all)
	outcome(t, err, done)
	same(t, "accounts", accounts, values(m.accounts))
	mc.checkChains(t)
	for _, a := range m.accounts {
		keys, _, err := s.Keys(mc.ctx, a.ID, all)
		outcome(t, err, done)
		same(t, "keys", keys, slices.DeleteFunc(values(m.keys), func(k keystore.Key) bool { return k.Account != a.ID }))
	}
	events, _, err := s.Events(mc.ctx, "", "", all)
	outcome(t, err, done)
	want := append([]keystore.Event{}, m.events...)
	slices.Reverse(want)
	same(t, "events", events, want)

	after, limit := rapid.Int64Range(0, m.revision()).Draw(t, "after"), rapid.IntRange(1, 20).Draw(t, "limit")
	_, changes, err := s.Changes(mc.ctx, m.epoch, after, limit)
	if wanted := m.changes(after, limit); wanted == nil {
		outcome(t, err, gone)
	} else if outcome(t, err, done) {
		same(t, "changes", changes, wanted)
	}
	var digests []credential.Digest
	var facts []keystore.Fact
	for i := range 13 {
		digests = append(digests, digestOf(fmt.Sprintf("secret_%d", i)))
		facts = append(facts, m.fact(digests[i]))
	}
	_, got, err := s.Resolve(mc.ctx, digests)
	outcome(t, err, done)
	same(t, "facts", got, facts)
}

// checkChains checks that at most two keys of a chain are in force.
func (mc *machine) checkChains(t *rapid.T) {
	inForce := map[string]int{}
	for _, k := range mc.model.keys {
		if k.Chain != "" && mc.model.inForce(k) {
			if inForce[k.Chain]++; inForce[k.Chain] > 2 {
				t.Fatalf("more than two keys of the chain %s are in force", k.Chain)
			}
		}
	}
}

// checkProgress compares the progress of each change with the model, and with what was stated before.
func (mc *machine) checkProgress(t *rapid.T, head keystore.Head, sidecars []keystore.Sidecar) {
	stated := map[int64]keystore.Progress{}
	for revision := range head.Revision {
		revision++
		got := keystore.ProgressOf(revision, head, sidecars)
		same(t, fmt.Sprint("progress of ", revision), got, mc.model.progress(revision))
		if before, ok := mc.stated[revision]; ok && later(before, got) {
			t.Fatalf("the progress of change %d was %+v, and then %+v", revision, before, got)
		}
		stated[revision] = got
	}
	mc.stated = stated
}

func values[T any](pointers []*T) []T {
	list := make([]T, len(pointers))
	for i, p := range pointers {
		list[i] = *p
	}
	return list
}
