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

// world has the real components under test, and the facts to compare them with.
type world struct {
	keyd     *keyd
	network  *network
	times    keycache.Times
	sidecars []*sidecar
	names    atomic.Int64 // names of sidecars so far

	mu         sync.Mutex
	rng        *rand.Rand
	keys       []*key
	terminated map[string]bool
	changes    []*change
	backup     *backup
	highest    map[string]int64 // newest revision of each epoch
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

// report records a violation. w.mu is held.
func (w *world) report(format string, args ...any) {
	if len(w.problems) < 5 {
		w.problems = append(w.problems, time.Since(w.keyd.began).String()+": "+fmt.Sprintf(format, args...))
	}
}

// ok reports whether no violation is recorded.
func (w *world) ok() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.problems) == 0
}

// must reports errors of the model itself.
func (w *world) must(err error) {
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.report("the model failed: %v", err)
	}
}

func newWorld(folder string, p plan) *world {
	w := &world{
		keyd: &keyd{
			folder: folder, began: time.Now(), rate: p.rate, deregistered: make(map[string]bool), recordEnds: make(map[string]time.Time),
			oldProtocol: oldProtocol{deregistrations: make(map[string]int)},
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
		w.operator("POST", "/v1/accounts", fmt.Sprintf(`{"id":"acc_%d","name":"n"}`, i))
	}
	w.readEpoch()
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
		s.shutdown()
	}
	w.checks.Wait()
	w.must(w.keyd.stop(true))
	w.network.shutdown()
}

// check looks a key up at a sidecar and compares the result with the facts. Exact: it must succeed
// and return the current fact.
func (w *world) check(s *sidecar, k *key, exact bool) {
	w.mu.Lock()
	w.operations++
	oldest := k.oldest(w.keyd.now())
	if exact {
		oldest = len(k.history) - 1
	}
	began := time.Since(w.keyd.began)
	nameShared := s.nameShared
	w.mu.Unlock()
	w.checks.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		rec, found, known := s.cache.Cached(k.digest)
		var err error
		if !known {
			rec, found, err = s.cache.Lookup(ctx, k.digest)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case err != nil && exact:
			w.report("%s: %v, while the key API is reachable", k.name, err)
		case nameShared:
		case err == nil && !k.hadSince(factOf(rec, found), oldest):
			w.report("%s: a check begun at %s got %s; the fact is %s (version %d), and no version before %d may answer",
				k.name, began, factOf(rec, found), k.current(), len(k.history)-1, oldest)
		}
	})
}

// advance lets time pass.
func advance(d time.Duration) { <-time.After(d) }

// checkAll checks all keys at all sidecars.
func (w *world) checkAll(exact bool) {
	for _, s := range w.sidecars {
		for _, k := range w.keys {
			w.check(s, k, exact)
		}
	}
}

// checkSome checks so many random keys at random sidecars.
func (w *world) checkSome(n int) {
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

// operatorAnswer has the fields of the operator API's answers that the model reads.
type operatorAnswer struct {
	Key    struct{ ID string }
	Change struct {
		Revision    int64
		Effective   bool
		EffectiveBy *time.Time `json:"effective_by"`
		WaitingFor  []string   `json:"waiting_for"`
	}
}

// operator sends an operator's request and reports whether it was answered.
func (w *world) operator(method, path, body string) (answer operatorAnswer, ok bool) {
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

// change makes one change of some keys. Their new facts are recorded first, because sidecars may
// apply the change before the operator's answer arrives.
func (w *world) change(keys []*key, become func(fact) fact, method, path, body string) operatorAnswer {
	c := &change{}
	w.mu.Lock()
	w.operations++
	for _, k := range keys {
		k.set(become(k.current()), c)
	}
	w.mu.Unlock()
	asked, left := w.keyd.now(), w.keyd.deregisteredNames()
	answer, ok := w.operator(method, path, body)
	if !ok {
		return answer // must has reported it: keyd is running
	}
	w.mu.Lock()
	c.revision = answer.Change.Revision
	c.unproven = c.revision <= w.unproven.revision || asked.Before(w.unproven.until)
	c.observe(answer.Change.Effective, answer.Change.EffectiveBy)
	w.checkWaitingFor(answer, left)
	w.highest[w.epoch] = max(w.highest[w.epoch], c.revision)
	w.changes = append(w.changes, c)
	watch := !answer.Change.Effective && w.rng.IntN(3) == 0
	w.mu.Unlock()
	if watch {
		w.checks.Go(func() { w.checkProgress(c, "?wait_ms=20000") })
	}
	return answer
}

// checkProgress requests a change's progress.
func (w *world) checkProgress(c *change, query string) {
	w.mu.Lock()
	lost, revision := c.lost, c.revision
	w.mu.Unlock()
	if lost {
		return
	}
	left := w.keyd.deregisteredNames()
	r := w.keyd.operator("GET", fmt.Sprintf("/v1/revisions/%d%s", revision, query), "")
	var answer operatorAnswer
	if r.status != 200 || json.Unmarshal(r.body, &answer) != nil {
		return // keyd was stopped
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !c.lost { // it may be by now
		w.checkWaitingFor(answer, left)
	}
	c.observe(answer.Change.Effective, answer.Change.EffectiveBy)
}

// checkWaitingFor expects that a change waits for no sidecar whose deregistration was answered
// before the request. w.mu is held.
func (w *world) checkWaitingFor(answer operatorAnswer, left map[string]bool) {
	for _, name := range answer.Change.WaitingFor {
		if name, _, _ = strings.Cut(name, aliasMark); left[name] {
			w.report("revision %d waits for %s, which is deregistered", answer.Change.Revision, name)
		}
	}
}

// checkPending requests the progress of all changes that are not effective yet.
func (w *world) checkPending() {
	w.mu.Lock()
	pending := slices.DeleteFunc(slices.Clone(w.changes), func(c *change) bool { return c.effective || c.lost })
	w.mu.Unlock()
	for _, c := range pending {
		w.checkProgress(c, "")
	}
}

func (w *world) of(account string) []*key {
	return slices.DeleteFunc(slices.Clone(w.keys), func(k *key) bool { return k.account != account || !k.current().found })
}

// importKey imports the last key, which is unknown until then, and adds another unknown one.
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

// mutate makes one change of a kind.
func (w *world) mutate(kind int) {
	alive := slices.DeleteFunc(slices.Clone(w.keys), func(k *key) bool { f := k.current(); return !f.found || f.revoked || f.terminated })
	switch {
	case kind == 0 || len(alive) < 2:
		w.importKey()
	case kind == 1:
		account := fmt.Sprintf("acc_%d", w.pick(accounts))
		w.setAccount(account, !w.terminated[account])
	case kind <= 3:
		k := alive[w.pick(len(alive))]
		method := "PUT"
		if k.current().chat {
			method = "DELETE"
		}
		w.change([]*key{k}, func(f fact) fact { f.chat = !f.chat; return f }, method, "/v1/keys/"+k.id+"/scopes/chat:companion", "")
	default:
		k := alive[w.pick(len(alive))]
		w.change([]*key{k}, func(f fact) fact { f.revoked = true; return f }, "POST", "/v1/keys/"+k.id+"/revoke", "")
	}
}

// converge restores the network and waits until every sidecar has recovered. Then each check must
// succeed and return the current fact.
func (w *world) converge() {
	for _, s := range w.sidecars {
		s.link.set(normal)
	}
	advance(w.keyd.settings.Lease/3 + recoveryTime)
	w.mu.Lock()
	nameShared := slices.ContainsFunc(w.keys, func(k *key) bool {
		return slices.ContainsFunc(k.history, func(v version) bool { return v.by != nil && v.by.unproven })
	})
	w.mu.Unlock()
	if nameShared {
		advance(w.times.MaxAge + time.Second)
	}
	w.checkAll(true)
	w.checks.Wait()
	w.checkNamesKept()
}

// checkNamesKept expects that no sidecar takes a new name while the network is normal.
func (w *world) checkNamesKept() {
	before := make(map[*sidecar]string)
	for _, s := range w.sidecars {
		before[s] = s.cache.Name()
	}
	advance(w.pollWait() + time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	for s, name := range before {
		if now := s.cache.Name(); now != name {
			w.report("%s took the name %s", name, now)
		}
	}
}
