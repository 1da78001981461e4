package keystore

import (
	"cmp"
	"slices"
	"time"
)

// Progress is how far a change has come on its way to the sidecars.
type Progress struct {
	// Effective: no sidecar can still act on what was so before the change. Each that
	// could has acknowledged it, or its lease and its stale time are over.
	Effective bool
	// EffectiveBy is the moment by which Effective is certain, whatever happens; zero
	// once it is. Only NewEpoch moves it to a later one.
	EffectiveBy time.Time
	// Waiting is the number of sidecars that have not acknowledged it and whose time is not over.
	Waiting int
	// WaitingFor names them in order, the first MaxWaitingFor of them.
	WaitingFor []string
}

// MaxWaitingFor bounds Progress.WaitingFor. Larger makes the answers to changes large if the holder
// of a leaked service token has invented sidecars; smaller hides more of a fleet.
const MaxWaitingFor = 100

// ProgressOf returns how far the change with that revision has come. Head and sidecars, which
// are all that are listed, in order, are of one snapshot; head.Now is the moment that is
// judged. Feed.Progress returns the same without reading them all.
func ProgressOf(revision int64, head Head, sidecars []Sidecar) Progress {
	p := Progress{WaitingFor: []string{}}
	var by time.Time
	for _, s := range sidecars {
		end := s.answersWithout(revision)
		if !head.Now.Before(end) {
			continue
		}
		if p.Waiting++; p.Waiting <= MaxWaitingFor {
			p.WaitingFor = append(p.WaitingFor, s.Name)
		}
		if end.After(by) {
			by = end
		}
	}
	p.SetEffective(head, by)
	return p
}

// SetEffective sets Effective and EffectiveBy. Ends is the last moment at which one of those that Waiting
// counts may answer without the change, zero if there is none.
func (p *Progress) SetEffective(head Head, ends time.Time) {
	p.Effective = p.Waiting == 0 && !head.Now.Before(head.NotBefore)
	if !p.Effective {
		p.EffectiveBy = later(head.NotBefore, ends)
	}
}

// MaxGrants bounds what is kept of a sidecar that polls and polls and gets no answer.
const MaxGrants = 16

// answersWithout tells until when the sidecar may answer without knowing of the change; the
// zero Time if it knows.
func (s *Sidecar) answersWithout(revision int64) (end time.Time) {
	if s.Revision >= revision {
		return end
	}
	for _, g := range s.Grants {
		if g.Covers < revision {
			end = g.StaleEndsAt // they rise
		}
	}
	return end
}

// CheckNumber returns a Conflict if the poll must be refused: its number is not larger
// than the one on record, so it was delayed, repeated, or sent by a second process of
// that name; or the sidecar has left or was forgotten.
func (s *Sidecar) CheckNumber(p Poll) error {
	switch {
	case p.Number <= s.Poll:
		return Conflictf("poll must be larger than %d, the number on record for this sidecar", s.Poll)
	case s.Gone && !p.Leave:
		return Conflictf("This sidecar has left or was forgotten: a new process needs a new name")
	}
	return nil
}

// Record notes a poll that the log's head, at that revision, allows, and returns the
// lease that its answer may give. The ends are in microseconds, rounded up: none on
// record comes before the one that was given. It leaves Poll as it is.
//
// A poll whose answer reaches the head gets the lease that it wants. Another one
// (changes are left out, or too many polls went unanswered) gets no more than what
// is left of the leases before it, so that no moment that was told as a change's
// EffectiveBy is ever broken. If nothing is left, ok is false and nothing is noted.
func (s *Sidecar) Record(p Poll, head int64, now time.Time) (lease time.Duration, ok bool) {
	next := *s
	next.Revision = max(s.Revision, p.Revision)
	staleEnd := roundUp(now.Add(p.Lease + p.MaxStale))
	reach := min(head, p.Revision+int64(p.Limit))
	next.Grants = living(next.Revision, now, s.Grants)
	widened := living(next.Revision, now, append(next.Grants, Grant{head, staleEnd}))
	if reach == head && len(widened) <= MaxGrants {
		next.Grants, next.StaleEndsAt, lease = widened, later(s.StaleEndsAt, staleEnd), p.Lease
	} else if end := next.answersWithout(max(reach, next.Revision) + 1); !end.IsZero() {
		lease = min(p.Lease, end.Sub(now)-p.MaxStale)
	}
	next.LeaseEndsAt = later(s.LeaseEndsAt, roundUp(now.Add(lease)))
	if lease <= 0 {
		return 0, false
	}
	*s = next
	return lease, true
}

// living returns the grants that still matter to a change after that revision: those
// whose time is not over, without any beside which another covers no more and ends no
// sooner. What is acknowledged counts as covered.
func living(revision int64, now time.Time, grants []Grant) []Grant {
	list := make([]Grant, 0, len(grants))
	for _, g := range grants {
		if now.Before(g.StaleEndsAt) {
			list = append(list, Grant{max(g.Covers, revision), g.StaleEndsAt})
		}
	}
	slices.SortFunc(list, func(a, b Grant) int {
		return cmp.Or(cmp.Compare(a.Covers, b.Covers), b.StaleEndsAt.Compare(a.StaleEndsAt))
	})
	var end time.Time
	return slices.DeleteFunc(list, func(g Grant) bool {
		if !g.StaleEndsAt.After(end) {
			return true
		}
		end = g.StaleEndsAt
		return false
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func roundUp(t time.Time) time.Time {
	return time.UnixMicro(t.Add(time.Microsecond - 1).UnixMicro()).UTC()
}
