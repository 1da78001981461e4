package keycache_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/keyserver"
)

// world is the real parts, and the truth beside them.
type world struct {
	keyd     *keyd
	network  *network
	times    keycache.Times
	sidecars []*sidecar
	named    atomic.Int64 // names given so far

	mu         sync.Mutex
	rng        *rand.Rand
	keys       []*key
	terminated map[string]bool
	changes    []*change
	copied     *backup
	highest    map[string]int64 // newest revision that was ever given out, by epoch
	epoch      string
	unproven   struct {
		until    time.Time // by the key API's clock
		revision int64
	}
	operations int
	problems   []string
	checks     sync.WaitGroup
}

const accounts = 3

// wrong notes what must not be. w.mu is held.
func (w *world) wrong(format string, args ...any) {
	if len(w.problems) < 5 {
		w.problems = append(w.problems, time.Since(w.keyd.began).String()+": "+fmt.Sprintf(format, args...))
	}
}

// right tells whether nothing went wrong so far.
func (w *world) right() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.problems) == 0
}

// must is for what cannot fail in a model.
func (w *world) must(err error) {
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.wrong("the model broke: %v", err)
	}
}

func newWorld(folder string, p plan) *world {
	w := &world{
		keyd: &keyd{
			folder: folder, began: time.Now(), rate: p.rate, left: make(map[string]bool), counts: make(map[string]time.Time),
			firstVersion: firstVersion{left: make(map[string]int)},
			settings: keyserver.Settings{
				SidecarTokens: []keyserver.Token{secret(serviceToken)},
				Operators:     []keyserver.Operator{{Name: "model", Token: secret(operatorToken)}},
				Lease:         p.lease, LongestMaxStale: longestMaxStale, LogRetention: p.retention, KeysPerAccount: 100,
				Catalogue: keyserver.Catalogue{"chat:companion": keyserver.ByOperator},
			},
		},
		times:      p.times,
		rng:        rand.New(rand.NewPCG(p.seed, 2)),
		terminated: make(map[string]bool),
		highest:    make(map[string]int64),
	}
	w.network = newNetwork(w.keyd, p.seed)
	w.must(w.keyd.start())
	for i := range accounts {
		w.ask("POST", "/v1/accounts", fmt.Sprintf(`{"id":"acc_%d","name":"n"}`, i))
	}
	w.lookAtEpoch()
	w.addUnknown()
	for range 6 {
		w.importKey()
	}
	for range p.sidecars {
		w.addSidecar()
	}
	return w
}

func (w *world) close() {
	for _, s := range w.sidecars {
		s.leave()
	}
	w.checks.Wait()
	w.must(w.keyd.stop(true))
	w.network.end()
}

// check looks one key up at one sidecar, and holds what it gets against the truth.
func (w *world) check(s *sidecar, k *key, exact bool) {
	w.mu.Lock()
	w.operations++
	oldest := k.oldest(w.keyd.now())
	if exact {
		oldest = len(k.history) - 1
	}
	began := time.Since(w.keyd.began)
	doubtful := s.doubtful
	w.mu.Unlock()
	w.checks.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		rec, found, err := s.cache.Lookup(ctx, k.digest)
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case err != nil && exact:
			w.wrong("%s: %v, with the key API there", k.name, err)
		case doubtful:
		case err == nil && !k.was(factOf(rec, found), oldest):
			w.wrong("%s: a check begun at %s got %s; it is %s, which is version %d, and what was before version %d is over",
				k.name, began, factOf(rec, found), k.now(), len(k.history)-1, oldest)
		}
	})
}

// pass lets time pass.
func pass(d time.Duration) { <-time.After(d) }

// everything checks all keys at all sidecars at once.
func (w *world) everything(exact bool) {
	for _, s := range w.sidecars {
		for _, k := range w.keys {
			w.check(s, k, exact)
		}
	}
}

// some checks so many keys, one after the other.
func (w *world) some(n int) {
	if len(w.sidecars) == 0 {
		return
	}
	for range n {
		w.check(w.sidecars[w.pick(len(w.sidecars))], w.keys[w.pick(len(w.keys))], false)
	}
}

func (w *world) pick(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// told is the part of the key API's answers that the model reads.
type told struct {
	Key    struct{ ID string }
	Change struct {
		Revision    int64
		Effective   bool
		EffectiveBy *time.Time `json:"effective_by"`
		WaitingFor  []string   `json:"waiting_for"`
	}
}

// ask asks as an operator; false: no answer came.
func (w *world) ask(method, path, body string) (answer told, ok bool) {
	r := w.keyd.operator(method, path, body)
	if r.status == 0 {
		return answer, false
	}
	if r.status/100 != 2 {
		w.must(fmt.Errorf("%s %s: %d %s", method, path, r.status, r.body))
		return answer, false
	}
	w.must(json.Unmarshal(r.body, &answer))
	return answer, true
}

// change makes one change of some keys. What they become is noted before, since
// sidecars may know it before the answer is here.
func (w *world) change(keys []*key, become func(fact) fact, method, path, body string) told {
	c := &change{}
	w.mu.Lock()
	w.operations++
	for _, k := range keys {
		k.become(become(k.now()), c)
	}
	w.mu.Unlock()
	asked, left := w.keyd.now(), w.keyd.allThatLeft()
	answer, ok := w.ask(method, path, body)
	if !ok {
		return answer // keyd is up here: it cannot be
	}
	w.mu.Lock()
	c.revision = answer.Change.Revision
	c.unproven = c.revision <= w.unproven.revision || asked.Before(w.unproven.until)
	c.hear(answer.Change.Effective, answer.Change.EffectiveBy)
	w.waitsFor(answer, left)
	w.highest[w.epoch] = max(w.highest[w.epoch], c.revision)
	w.changes = append(w.changes, c)
	watch := !answer.Change.Effective && w.rng.IntN(3) == 0
	w.mu.Unlock()
	if watch {
		w.checks.Go(func() { w.progress(c, "?wait_ms=20000") })
	}
	return answer
}

// progress asks how far a change has come.
func (w *world) progress(c *change, query string) {
	w.mu.Lock()
	lost, revision := c.lost, c.revision
	w.mu.Unlock()
	if lost {
		return
	}
	left := w.keyd.allThatLeft()
	r := w.keyd.operator("GET", fmt.Sprintf("/v1/revisions/%d%s", revision, query), "")
	var answer told
	if r.status != 200 || json.Unmarshal(r.body, &answer) != nil {
		return // stopped under way
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !c.lost { // meanwhile
		w.waitsFor(answer, left)
	}
	c.hear(answer.Change.Effective, answer.Change.EffectiveBy)
}

// waitsFor holds that a change waits for no sidecar whose goodbye was answered before it was
// asked about. w.mu is held.
func (w *world) waitsFor(answer told, left map[string]bool) {
	for _, name := range answer.Change.WaitingFor {
		if name, _, _ = strings.Cut(name, aliasMark); left[name] {
			w.wrong("revision %d waits for %s, which has left", answer.Change.Revision, name)
		}
	}
}

// look asks about all changes that are not effective yet.
func (w *world) look() {
	w.mu.Lock()
	pending := slices.DeleteFunc(slices.Clone(w.changes), func(c *change) bool { return c.told || c.lost })
	w.mu.Unlock()
	for _, c := range pending {
		w.progress(c, "")
	}
}

func (w *world) of(account string) []*key {
	return slices.DeleteFunc(slices.Clone(w.keys), func(k *key) bool { return k.account != account || !k.now().found })
}

// importKey makes known the one key that nobody knew until now, the last, and adds
// another of that kind.
func (w *world) importKey() {
	if len(w.keys) > 40 {
		return
	}
	k := w.keys[len(w.keys)-1]
	if w.terminated[k.account] {
		w.setAccount(k.account, false)
	}
	k.id = w.change([]*key{k}, func(fact) fact { return fact{found: true} }, "POST", "/v1/accounts/"+k.account+"/keys/import",
		fmt.Sprintf(`{"sha256":%q,"label":"l"}`, k.digest.Hex())).Key.ID
	w.addUnknown()
}

func (w *world) addUnknown() {
	n := len(w.keys)
	w.keys = append(w.keys, newKey(fmt.Sprint("key-", n), fmt.Sprintf("acc_%d", n%accounts)))
}

func (w *world) setAccount(account string, terminated bool) {
	w.terminated[account] = terminated
	verb := "reinstate"
	if terminated {
		verb = "terminate"
	}
	w.change(w.of(account), func(f fact) fact { f.terminated = terminated; return f }, "POST", "/v1/accounts/"+account+"/"+verb, "")
}

// mutate makes one change of some kind.
func (w *world) mutate(kind int) {
	alive := slices.DeleteFunc(slices.Clone(w.keys), func(k *key) bool { f := k.now(); return !f.found || f.revoked || f.terminated })
	switch {
	case kind == 0 || len(alive) < 2:
		w.importKey()
	case kind == 1:
		account := fmt.Sprintf("acc_%d", w.pick(accounts))
		w.setAccount(account, !w.terminated[account])
	case kind <= 3:
		k := alive[w.pick(len(alive))]
		method := "PUT"
		if k.now().chat {
			method = "DELETE"
		}
		w.change([]*key{k}, func(f fact) fact { f.chat = !f.chat; return f }, method, "/v1/keys/"+k.id+"/scopes/chat:companion", "")
	default:
		k := alive[w.pick(len(alive))]
		w.change([]*key{k}, func(f fact) fact { f.revoked = true; return f }, "POST", "/v1/keys/"+k.id+"/revoke", "")
	}
}

// calm mends everything, waits until it must have settled, and then every sidecar must
// answer with what is so now, and without an error.
func (w *world) calm() {
	for _, s := range w.sidecars {
		s.link.set(fine)
	}
	pass(w.keyd.settings.Lease/3 + settled)
	w.mu.Lock()
	doubtful := slices.ContainsFunc(w.keys, func(k *key) bool {
		return slices.ContainsFunc(k.history, func(v version) bool { return v.by != nil && v.by.unproven })
	})
	w.mu.Unlock()
	if doubtful {
		pass(w.times.MaxAge + time.Second)
	}
	w.everything(true)
	w.checks.Wait()
	w.keepNames()
}

// keepNames holds that no sidecar takes a new name while nothing disturbs its polls.
func (w *world) keepNames() {
	before := make(map[*sidecar]string)
	for _, s := range w.sidecars {
		before[s] = s.cache.Name()
	}
	pass(w.pollWait() + time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	for s, name := range before {
		if now := s.cache.Name(); now != name {
			w.wrong("%s has become %s", name, now)
		}
	}
}
