package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

const (
	chatScope    = "chat:companion"
	keptKeys     = 200
	changingKeys = 50 // the newest are requested
)

// seed mints keys and sessions, and has those cached that are kept.
func (m *mixed) seed() {
	m.none = &subject{kept: true, facts: newHistory(fact{answer: missing})}
	m.unknown = &subject{facts: newHistory(fact{answer: unknown})}
	for i := range keptKeys {
		m.kept = append(m.kept, m.mintSubject(i%2 == 0), m.mintSessionSubject())
	}
	for _, s := range m.kept {
		s.kept = true
	}
	for _, d := range m.deciders {
		m.awaitReady(d)
	}
	for i := range changingKeys {
		s := m.mintSubject(false)
		change := must(m.Operators.Do(m.t.Context(), operatorapi.RevokeKey(s.id)))(m.t).Change
		m.awaitEffective(change.Revision)
		s.facts = newHistory(fact{answer: revoked})
		m.revoked = append(m.revoked, s)
		m.changing = append(m.changing, m.mintSubject(i%2 == 0))
	}
}

func (m *mixed) mintSubject(scoped bool) *subject {
	k := operatorapi.NewKey{Label: "mixed"}
	if scoped {
		k.Scopes = []string{chatScope}
	}
	answer, err := m.Operators.Do(context.Background(), operatorapi.MintKey(m.account, k))
	if err != nil {
		m.t.Errorf("mint: %v", err)
		return nil
	}
	return m.subject(answer.Key.ID, answer.Plaintext.Reveal(), scoped)
}

func (m *mixed) mintSessionSubject() *subject {
	answer := must(m.Operators.Do(m.t.Context(), operatorapi.MintSession(m.account, 24*time.Hour)))(m.t)
	return m.subject(answer.Session.ID, answer.Token.Reveal(), true)
}

func (m *mixed) subject(id, plaintext string, scoped bool) *subject {
	m.Canaries.Add(plaintext)
	return &subject{id: id, secret: credential.NewSecret(plaintext), facts: newHistory(fact{allowed, scoped})}
}

func (m *mixed) pickChanging() *subject {
	m.mu.Lock()
	defer m.mu.Unlock()
	newest := m.changing[max(0, len(m.changing)-changingKeys):]
	return newest[rand.IntN(len(newest))]
}

// changeKeys is one change of an operator: a new key, a revocation, or a scope granted or taken away.
func (m *mixed) changeKeys(n int) {
	m.changes.Add(1)
	if n%3 == 0 {
		if s := m.mintSubject(n%2 == 0); s != nil {
			m.mu.Lock()
			m.changing = append(m.changing, s)
			m.mu.Unlock()
		}
		return
	}
	s := m.pickChanging()
	var do operatorapi.Request
	version, _ := s.facts.change(func(f fact) fact {
		switch {
		case f.answer == revoked || n%3 == 1:
			f.answer, do = revoked, operatorapi.RevokeKey(s.id)
		case f.scoped:
			f.scoped, do = false, operatorapi.UngrantScope(s.id, chatScope)
		default:
			f.scoped, do = true, operatorapi.GrantScope(s.id, chatScope)
		}
		return f
	})
	answer, err := m.Operators.Do(context.Background(), do)
	if err != nil {
		m.t.Errorf("change: %v", err)
		return
	}
	acknowledged := time.Now()
	m.following.Go(func() {
		if err := m.follow(answer.Change.Revision); err != nil {
			m.t.Error(err)
			return
		}
		m.noteEffective(acknowledged)
		s.facts.retire(version)
	})
}

// follow waits until a change is effective.
func (m *mixed) follow(revision int64) error {
	return testbed.Until(context.Background(), func() error {
		answer, err := m.Operators.Do(context.Background(), operatorapi.Revision(revision).Waiting(operatorapi.MaxWait))
		if err == nil && !answer.Change.Effective {
			err = fmt.Errorf("%+v", answer.Change)
		}
		return err
	})
}
