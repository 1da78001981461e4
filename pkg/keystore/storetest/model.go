package storetest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// model is the store as its contract describes it, without engine, disk or concurrency. Its times are within a second of
// the store's.
type model struct {
	now       time.Time // set before each step
	epoch     string
	notBefore time.Time
	accounts  []*keystore.Account
	keys      []*keystore.Key
	sessions  []*modelSession
	sidecars  map[string]*modelSidecar // also those that are gone
	log       []modelChange            // the n-th has revision n+1
	pruned    int64                    // the newest revision that is deleted
	events    []keystore.Event
	grants    []modelGrant // every one that was given
}

type modelSession struct {
	keystore.Session
	ended bool
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

func (m *model) revision() int64 { return int64(len(m.log)) }

func (m *model) head() keystore.Head {
	return keystore.Head{Epoch: m.epoch, Revision: m.revision(), NotBefore: m.notBefore, Now: m.now}
}

func (m *model) change(account string, d credential.Digest) int64 {
	m.log = append(m.log, modelChange{keystore.Change{Revision: m.revision() + 1, Account: account, Digest: d}, m.now})
	return m.revision()
}

func (m *model) event(action keystore.Action, account, key string, detail ...string) {
	fields := map[string]string{}
	for pair := range slices.Chunk(detail, 2) {
		fields[pair[0]] = pair[1]
	}
	m.events = append(m.events, keystore.Event{At: m.now, Actor: actor, Action: action, Account: account, Key: key, Detail: fields})
}

// find returns the first entry that matches, nil if there is none.
func find[T any](list []*T, matches func(*T) bool) *T {
	if i := slices.IndexFunc(list, matches); i >= 0 {
		return list[i]
	}
	return nil
}

func (m *model) account(id string) *keystore.Account {
	return find(m.accounts, func(a *keystore.Account) bool { return a.ID == id })
}

func (m *model) key(id string) *keystore.Key {
	return find(m.keys, func(k *keystore.Key) bool { return k.ID == id })
}

// keyOf is key for one account, or for any if that is "".
func (m *model) keyOf(id, account string) *keystore.Key {
	if k := m.key(id); k != nil && (account == "" || k.Account == account) {
		return k
	}
	return nil
}

func (m *model) session(id string) *modelSession {
	return find(m.sessions, func(s *modelSession) bool { return s.ID == id })
}

func (m *model) fact(d credential.Digest) keystore.Fact {
	of := func(account string) credential.Account {
		return credential.Account{ID: account, State: m.account(account).State}
	}
	if k := find(m.keys, func(k *keystore.Key) bool { return k.Digest == d }); k != nil {
		return keystore.Fact{Found: true, Record: credential.Record{
			Kind: credential.Key, ID: k.ID, State: k.State, ExpiresAt: k.ExpiresAt, Scopes: k.Scopes, Account: of(k.Account),
		}}
	}
	s := find(m.sessions, func(s *modelSession) bool { return s.Digest == d })
	if s == nil {
		return keystore.Fact{}
	}
	state := credential.Active
	if s.ended {
		state = credential.Revoked
	}
	return keystore.Fact{Found: true, Record: credential.Record{
		Kind: credential.Session, ID: s.ID, State: state, ExpiresAt: s.ExpiresAt, Account: of(s.Account),
	}}
}

func (m *model) inForce(k *keystore.Key) bool {
	return k.State == credential.Active && (k.ExpiresAt.IsZero() || m.now.Before(k.ExpiresAt))
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
	switch {
	case a == nil:
		return notFound
	case a.State == state:
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
	for _, k := range m.keys {
		if k.Account == n.Account && m.inForce(k) {
			active++
		}
	}
	switch {
	case a == nil:
		return notFound
	case a.State != credential.Active || m.fact(n.Digest).Found || (n.Limit > 0 && active >= n.Limit):
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

// importKeys does on a copy what CreateKey does one by one.
func (m *model) importKeys(keys []keystore.NewKey) (result keystore.Imported, mistakes []string) {
	before := *m
	for i, n := range keys {
		had := find(m.keys, func(k *keystore.Key) bool { return k.Digest == n.Digest && k.Account == n.Account })
		if had != nil {
			result.Existing++
			result.Revision = max(result.Revision, had.Revision)
			continue
		}
		n.Imported, n.Limit = true, 0
		outcome := conflict
		if m.account(n.Account) == nil || m.key(n.ID) == nil {
			outcome = m.createKey(n)
		}
		if outcome != done {
			mistakes = append(mistakes, fmt.Sprint(i, " ", outcome))
			continue
		}
		result.Imported++
		result.Revision = m.revision()
	}
	if len(mistakes) > 0 {
		*m = before
		return keystore.Imported{}, mistakes
	}
	return result, nil
}

func (m *model) revokeKey(id, account string) string {
	k := m.keyOf(id, account)
	if k == nil {
		return notFound
	}
	m.revoke(k)
	return done
}

// revoke reports whether the key was active.
func (m *model) revoke(k *keystore.Key) bool {
	if k.State == credential.Revoked {
		return false
	}
	k.State, k.RevokedAt, k.Revision = credential.Revoked, m.now, m.change("", k.Digest)
	m.event(keystore.KeyRevoke, k.Account, k.ID)
	return true
}

func (m *model) revokeChain(id, account string) (chain keystore.RevokedChain, outcome string) {
	named := m.keyOf(id, account)
	if named == nil {
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
	old := m.keyOf(r.ID, r.Account)
	switch {
	case old == nil:
		return notFound
	case !m.inForce(old) || old.ReplacedBy != "" || m.account(old.Account).State != credential.Active || m.fact(r.Digest).Found:
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
		if k != old && k.Chain == old.Chain && m.inForce(k) {
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

func (m *model) prune(retention time.Duration) {
	cutoff := m.now.Add(-retention)
	for m.pruned < m.revision()-1 && m.log[m.pruned].at.Before(cutoff) {
		m.pruned++
	}
	m.sessions = slices.DeleteFunc(m.sessions, func(s *modelSession) bool { return s.ExpiresAt.Before(cutoff) })
	maps.DeleteFunc(m.sidecars, func(_ string, s *modelSidecar) bool { return s.StaleEndsAt.Before(cutoff) })
}

// changes is nil if the log does not reach back.
func (m *model) changes(after int64, limit int) []keystore.Change {
	if after < m.pruned || after > m.revision() {
		return nil
	}
	list := []keystore.Change{}
	for _, c := range m.log[after:min(after+int64(limit), m.revision())] {
		list = append(list, c.Change)
	}
	return list
}
