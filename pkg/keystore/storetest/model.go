package storetest

import (
	"maps"
	"slices"
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
