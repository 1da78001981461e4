package storetest

import (
	"maps"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// modelSidecar keeps all leases.
type modelSidecar struct {
	keystore.Sidecar
	all []keystore.Grant
}

// modelGrant is one lease plus stale time.
type modelGrant struct {
	at   time.Time
	size time.Duration
}

// largest returns the largest grant of all, and the largest that is not over.
func (m *model) largest() (ever, now time.Duration) {
	for _, g := range m.grants {
		ever = max(ever, g.size)
		if g.at.Add(g.size).After(m.now) {
			now = max(now, g.size)
		}
	}
	return ever, now
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
		m.deregister(s, p.Number, m.now.Add(p.Lease+p.MaxStale))
		return 0, done
	case p.Revision < 0:
		return 0, gone
	}
	if known != nil {
		known.Poll = p.Number // also of a poll that gets no lease
	}
	s.Poll = p.Number
	if p.Epoch != m.epoch || p.Revision > m.revision() {
		return 0, gone
	}
	s.Revision = max(s.Revision, p.Revision)
	end := m.now.Add(p.Lease + p.MaxStale)
	if reach := p.Revision + int64(p.Limit); reach < m.revision() {
		left := s.without(max(reach, s.Revision) + 1)
		if end.After(left) {
			end = left
		}
		if p.Lease = end.Add(-p.MaxStale).Sub(m.now); p.Lease <= 0 {
			return 0, gone
		}
	} else {
		s.all = append(slices.Clone(s.all), keystore.Grant{Covers: m.revision(), StaleEndsAt: end})
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

// onRecord returns nil also for a sidecar that is gone and whose time is over.
func (m *model) onRecord(name string) *modelSidecar {
	s := m.sidecars[name]
	if s != nil && s.Gone && !s.StaleEndsAt.After(m.now) {
		return nil
	}
	return s
}

func (m *model) deregister(s modelSidecar, number int64, unknown time.Time) {
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

// without is the last moment of all leases whose answers lacked the change.
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

func (m *model) listed() []keystore.Sidecar {
	list := []keystore.Sidecar{}
	for _, name := range slices.Sorted(maps.Keys(m.sidecars)) {
		if s := m.sidecars[name]; s.StaleEndsAt.After(m.now) && !s.Gone {
			list = append(list, s.Sidecar)
		}
	}
	return list
}

func (m *model) leases() keystore.Leases {
	l := keystore.Leases{Revision: m.revision()}
	for _, s := range m.sidecars {
		if !s.LeaseEndsAt.After(m.now) || s.Gone {
			continue
		}
		if l.Count++; l.Count == 1 || s.LeaseEndsAt.Before(l.FirstEnd) {
			l.FirstEnd = s.LeaseEndsAt
		}
		l.Revision = min(l.Revision, s.Revision)
	}
	return l
}
