package storetest

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// model is the store as its contract tells it, without engine, disk or
// concurrency. Its times are within a second of the store's.
type model struct {
	now       time.Time // set before each step
	epoch     string
	notBefore time.Time
	accounts  []*keystore.Account
	keys      []*keystore.Key
	sessions  []*modelSession
	sidecars  map[string]*modelSidecar // those that have left or were forgotten, too
	log       []modelChange            // the n-th has revision n+1
	pruned    int64                    // the newest revision that is gone
	events    []keystore.Event
	grants    []modelGrant // every one that was given
}

// modelGrant is a lease and stale time together.
type modelGrant struct {
	at   time.Time
	size time.Duration
}

// largest is the largest grant ever, and the largest that is not over.
func (m *model) largest() (ever, now time.Duration) {
	for _, g := range m.grants {
		ever = max(ever, g.size)
		if g.at.Add(g.size).After(m.now) {
			now = max(now, g.size)
		}
	}
	return ever, now
}

type modelSession struct {
	keystore.Session
	ended bool
}

// modelSidecar keeps every lease that there ever was.
type modelSidecar struct {
	keystore.Sidecar
	all []keystore.Grant
}

type modelChange struct {
	keystore.Change
	at time.Time
}

// The outcomes of a step.
const (
	done     = "done"
	notFound = "not found"
	conflict = "conflict"
	gone     = "gone"
)

func (m *model) head() int64 { return int64(len(m.log)) }

// end is the head as the store tells it.
func (m *model) end() keystore.Head {
	return keystore.Head{Epoch: m.epoch, Revision: m.head(), NotBefore: m.notBefore, Now: m.now}
}

func (m *model) change(account string, d credential.Digest) int64 {
	m.log = append(m.log, modelChange{keystore.Change{Revision: m.head() + 1, Account: account, Digest: d}, m.now})
	return m.head()
}

func (m *model) event(action keystore.Action, account, key string, detail ...string) {
	fields := map[string]string{}
	for pair := range slices.Chunk(detail, 2) {
		fields[pair[0]] = pair[1]
	}
	m.events = append(m.events, keystore.Event{At: m.now, Actor: actor, Action: action, Account: account, Key: key, Detail: fields})
}

func (m *model) account(id string) *keystore.Account {
	for _, a := range m.accounts {
		if a.ID == id {
			return a
		}
	}
	return nil
}

func (m *model) key(id string) *keystore.Key {
	for _, k := range m.keys {
		if k.ID == id {
			return k
		}
	}
	return nil
}

func (m *model) session(id string) *modelSession {
	for _, s := range m.sessions {
		if s.ID == id {
			return s
		}
	}
	return nil
}

func (m *model) fact(d credential.Digest) keystore.Fact {
	of := func(account string) credential.Account {
		return credential.Account{ID: account, State: m.account(account).State}
	}
	for _, k := range m.keys {
		if k.Digest == d {
			return keystore.Fact{Found: true, Record: credential.Record{
				Kind: credential.Key, ID: k.ID, State: k.State, ExpiresAt: k.ExpiresAt, Scopes: k.Scopes, Account: of(k.Account),
			}}
		}
	}
	for _, s := range m.sessions {
		if s.Digest == d {
			state := credential.Active
			if s.ended {
				state = credential.Revoked
			}
			return keystore.Fact{Found: true, Record: credential.Record{
				Kind: credential.Session, ID: s.ID, State: state, ExpiresAt: s.ExpiresAt, Account: of(s.Account),
			}}
		}
	}
	return keystore.Fact{}
}

func (m *model) expired(k *keystore.Key) bool {
	return !k.ExpiresAt.IsZero() && !m.now.Before(k.ExpiresAt)
}

func (m *model) createAccount(id string) string {
	if m.account(id) != nil {
		return conflict
	}
	m.accounts = append(m.accounts, &keystore.Account{
		ID: id, Name: "name", State: credential.Active, CreatedAt: m.now, Revision: m.change(id, credential.Digest{}),
	})
	m.event(keystore.AccountCreate, id, "", "name", "name")
	return done
}

func (m *model) setState(id string, state credential.State) string {
	a := m.account(id)
	if a == nil {
		return notFound
	}
	if a.State == state {
		return done
	}
	a.State, a.TerminatedAt, a.Revision = state, time.Time{}, m.change(id, credential.Digest{})
	action := keystore.AccountReinstate
	if state == credential.Terminated {
		a.TerminatedAt, action = m.now, keystore.AccountTerminate
	}
	m.event(action, id, "")
	return done
}

func (m *model) createKey(n keystore.NewKey) string {
	a, active := m.account(n.Account), 0
	if a == nil {
		return notFound
	}
	for _, k := range m.keys {
		if k.Account == n.Account && k.State == credential.Active && !m.expired(k) {
			active++
		}
	}
	if a.State != credential.Active || m.fact(n.Digest).Found || (n.Limit > 0 && active >= n.Limit) {
		return conflict
	}
	m.keys = append(m.keys, &keystore.Key{
		ID: n.ID, Account: n.Account, Digest: n.Digest, Label: n.Label, Hint: n.Hint, Scopes: n.Scopes, State: credential.Active,
		CreatedAt: m.now, CreatedBy: actor, ExpiresAt: n.ExpiresAt, Revision: m.change("", n.Digest),
	})
	detail := []string{"label", n.Label, "scopes", n.Scopes.String()}
	if !n.ExpiresAt.IsZero() {
		detail = append(detail, "expires_at", "")
	}
	action := keystore.KeyMint
	if n.Imported {
		action = keystore.KeyImport
	}
	m.event(action, n.Account, n.ID, detail...)
	return done
}

func (m *model) revokeKey(id, account string) string {
	k := m.key(id)
	if k == nil || (account != "" && k.Account != account) {
		return notFound
	}
	m.revoke(k)
	return done
}

// revoke tells whether the key was not revoked before.
func (m *model) revoke(k *keystore.Key) bool {
	if k.State == credential.Revoked {
		return false
	}
	k.State, k.RevokedAt, k.Revision = credential.Revoked, m.now, m.change("", k.Digest)
	m.event(keystore.KeyRevoke, k.Account, k.ID)
	return true
}

func (m *model) revokeChain(id, account string) (chain keystore.RevokedChain, outcome string) {
	named := m.key(id)
	if named == nil || (account != "" && named.Account != account) {
		return chain, notFound
	}
	chain.Revoked = []string{}
	for _, k := range m.keys {
		if k == named || (k.Chain != "" && k.Chain == named.Chain) {
			if m.revoke(k) {
				chain.Revoked = append(chain.Revoked, k.ID)
			}
			chain.Revision = max(chain.Revision, k.Revision)
		}
	}
	chain.Key = *named
	return chain, done
}

func (m *model) rollKey(r keystore.Roll) string {
	old := m.key(r.ID)
	if old == nil || (r.Account != "" && old.Account != r.Account) {
		return notFound
	}
	if old.State != credential.Active || m.expired(old) || old.ReplacedBy != "" || m.account(old.Account).State != credential.Active || m.fact(r.Digest).Found {
		return conflict
	}
	if old.Chain == "" {
		old.Chain = old.ID
	}
	next := *old
	next.ID, next.Digest, next.Hint, next.CreatedAt, next.LastUsedAt = r.NewID, r.Digest, r.Hint, m.now, time.Time{}
	next.Revision = m.change("", r.Digest)
	detail := []string{"successor", r.NewID, "grace_seconds", strconv.Itoa(int(r.Grace / time.Second))}
	var ended []string
	for _, k := range m.keys {
		if k != old && k.Chain == old.Chain && k.State == credential.Active && !m.expired(k) {
			k.State, k.RevokedAt, k.Revision = credential.Revoked, m.now, m.change("", k.Digest)
			ended = append(ended, k.ID)
		}
	}
	if len(ended) > 0 {
		detail = append(detail, "revoked", strings.Join(ended, " "))
	}
	m.keys = append(m.keys, &next)
	old.ReplacedBy, old.Revision = next.ID, m.change("", old.Digest)
	if r.Grace == 0 {
		old.State, old.RevokedAt = credential.Revoked, m.now
	} else if end := m.now.Add(r.Grace); old.ExpiresAt.IsZero() || old.ExpiresAt.After(end) {
		old.ExpiresAt = end
	}
	m.event(keystore.KeyRoll, old.Account, old.ID, detail...)
	return done
}

func (m *model) setScope(id, scope string, granted bool) string {
	k := m.key(id)
	switch {
	case k == nil:
		return notFound
	case k.Scopes.Has(scope) == granted:
		return done
	case granted && m.account(k.Account).State != credential.Active:
		return conflict
	}
	action := keystore.KeyUngrant
	if granted {
		action, k.Scopes = keystore.KeyGrant, k.Scopes.With(credential.NewScopes(scope))
	} else {
		k.Scopes = k.Scopes.Without(scope)
	}
	k.Revision = m.change("", k.Digest)
	m.event(action, k.Account, id, "scope", scope)
	return done
}

func (m *model) createSession(n keystore.NewSession) string {
	a := m.account(n.Account)
	switch {
	case a == nil:
		return notFound
	case a.State != credential.Active || m.fact(n.Digest).Found:
		return conflict
	}
	m.sessions = append(m.sessions, &modelSession{Session: keystore.Session{
		ID: n.ID, Account: n.Account, Digest: n.Digest, CreatedAt: m.now, ExpiresAt: m.now.Add(n.TTL),
	}})
	m.event(keystore.SessionMint, n.Account, "", "session", n.ID, "expires_at", "")
	return done
}

func (m *model) endSession(id string) string {
	s := m.session(id)
	if s == nil {
		return notFound
	}
	if !s.ended {
		s.ended, s.Revision = true, m.change("", s.Digest)
		m.event(keystore.SessionEnd, s.Account, "", "session", id)
	}
	return done
}

func (m *model) use(d credential.Digest, at time.Time) {
	for _, k := range m.keys {
		if k.Digest == d && at.After(k.LastUsedAt) && !at.After(m.now) {
			k.LastUsedAt = at
		}
	}
}

func (m *model) poll(p keystore.Poll) (lease time.Duration, outcome string) {
	s := modelSidecar{Sidecar: keystore.Sidecar{Name: p.Sidecar}}
	known := m.onRecord(p.Sidecar)
	if known != nil {
		s = *known
	}
	switch {
	case p.Number <= s.Poll, s.Gone && !p.Leave:
		return 0, conflict
	case p.Leave:
		m.leave(s, p.Number, m.now.Add(p.Lease+p.MaxStale))
		return 0, done
	case p.Revision < 0:
		return 0, gone
	}
	if known != nil {
		known.Poll = p.Number // of a poll that gets no lease, too
	}
	s.Poll = p.Number
	if p.Epoch != m.epoch || p.Revision > m.head() {
		return 0, gone
	}
	s.Revision = max(s.Revision, p.Revision)
	end := m.now.Add(p.Lease + p.MaxStale)
	if reach := p.Revision + int64(p.Limit); reach < m.head() {
		left := s.without(max(reach, s.Revision) + 1)
		if end.After(left) {
			end = left
		}
		if p.Lease = end.Add(-p.MaxStale).Sub(m.now); p.Lease <= 0 {
			return 0, gone
		}
	} else {
		s.all = append(slices.Clone(s.all), keystore.Grant{Covers: m.head(), StaleEndsAt: end})
	}
	if end := m.now.Add(p.Lease); end.After(s.LeaseEndsAt) {
		s.LeaseEndsAt = end
	}
	if end.After(s.StaleEndsAt) {
		s.StaleEndsAt = end
	}
	m.sidecars[p.Sidecar] = &s
	m.grants = append(m.grants, modelGrant{m.now, p.Lease + p.MaxStale})
	return p.Lease, done
}

// onRecord returns nil also for one that has left or was forgotten and whose time is over.
func (m *model) onRecord(name string) *modelSidecar {
	s := m.sidecars[name]
	if s != nil && s.Gone && !s.StaleEndsAt.After(m.now) {
		return nil
	}
	return s
}

func (m *model) leave(s modelSidecar, number int64, unknown time.Time) {
	if !s.StaleEndsAt.After(m.now) {
		s.StaleEndsAt = unknown
	}
	s.Poll, s.Gone = number, true
	m.sidecars[s.Name] = &s
}

func (m *model) forget(name string) string {
	s := m.onRecord(name)
	if s == nil || s.Gone || !s.StaleEndsAt.After(m.now) {
		return notFound
	}
	s.Gone = true
	m.event(keystore.SidecarForget, "", "", "name", name)
	return done
}

// without is the last moment of all leases whose answers did not have the change.
func (s *modelSidecar) without(revision int64) (end time.Time) {
	for _, g := range s.all {
		if g.Covers < revision && s.Revision < revision && !s.Gone && g.StaleEndsAt.After(end) {
			end = g.StaleEndsAt
		}
	}
	return end
}

func (m *model) progress(revision int64) keystore.Progress {
	p := keystore.Progress{Effective: !m.now.Before(m.notBefore), WaitingFor: []string{}}
	by := m.notBefore
	for _, name := range slices.Sorted(maps.Keys(m.sidecars)) {
		if end := m.sidecars[name].without(revision); end.After(m.now) {
			p.Effective, p.Waiting, p.WaitingFor = false, p.Waiting+1, append(p.WaitingFor, name)
			if end.After(by) {
				by = end
			}
		}
	}
	if !p.Effective {
		p.EffectiveBy = by
	}
	return p
}

func (m *model) living() []keystore.Sidecar {
	list := []keystore.Sidecar{}
	for _, name := range slices.Sorted(maps.Keys(m.sidecars)) {
		if s := m.sidecars[name]; s.StaleEndsAt.After(m.now) && !s.Gone {
			list = append(list, s.Sidecar)
		}
	}
	return list
}

func (m *model) leases() (n int) {
	for _, s := range m.sidecars {
		if s.LeaseEndsAt.After(m.now) && !s.Gone {
			n++
		}
	}
	return n
}

func (m *model) prune(retention time.Duration) {
	cutoff := m.now.Add(-retention)
	for m.pruned < m.head()-1 && m.log[m.pruned].at.Before(cutoff) {
		m.pruned++
	}
	m.sessions = slices.DeleteFunc(m.sessions, func(s *modelSession) bool { return s.ExpiresAt.Before(cutoff) })
	maps.DeleteFunc(m.sidecars, func(_ string, s *modelSidecar) bool { return s.StaleEndsAt.Before(cutoff) })
}

// changes is nil where the log does not reach back.
func (m *model) changes(after int64, limit int) []keystore.Change {
	if after < m.pruned || after > m.head() {
		return nil
	}
	list := []keystore.Change{}
	for _, c := range m.log[after:min(after+int64(limit), m.head())] {
		list = append(list, c.Change)
	}
	return list
}
