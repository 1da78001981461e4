package keystore

import "time"

// Progress is how far a change has come on its way to the sidecars.
type Progress struct {
	// Effective: no sidecar can still act on what was so before the change. Each that
	// could has acknowledged it, or its lease and its stale time are over.
	Effective bool
	// EffectiveBy is the moment by which Effective is certain, whatever happens; zero
	// once it is.
	EffectiveBy time.Time
	// WaitingFor names the sidecars that have not acknowledged it and whose time is not
	// over, in order.
	WaitingFor []string
}

// ProgressOf tells how far the change with that revision has come. Head and
// sidecars are of one snapshot, as Feed.Sidecars gives them; head.Now is the
// moment that is judged.
func ProgressOf(revision int64, head Head, sidecars []Sidecar) Progress {
	p := Progress{WaitingFor: []string{}}
	by := head.NotBefore
	for _, s := range sidecars {
		if s.Revision >= revision || !head.Now.Before(s.StaleEndsAt) {
			continue
		}
		p.WaitingFor = append(p.WaitingFor, s.Name)
		if s.StaleEndsAt.After(by) {
			by = s.StaleEndsAt
		}
	}
	p.Effective = len(p.WaitingFor) == 0 && !head.Now.Before(head.NotBefore)
	if !p.Effective {
		p.EffectiveBy = by
	}
	return p
}
