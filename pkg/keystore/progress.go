package keystore

import (
	"cmp"
	"slices"
	"time"
)

// Progress is how far a change has reached the sidecars.
type Progress struct {
	// Effective: no sidecar can still act on the facts before the change. Each that could has acknowledged it, or its lease and
	// its stale time are over.
	Effective bool
	// EffectiveBy is the moment by which the change is certain to be effective; zero once it is. Only NewEpoch makes it later.
	EffectiveBy time.Time
	// Waiting is the number of sidecars that have not acknowledged it and whose stale time is not over.
	Waiting int
	// WaitingFor has the first MaxWaitingFor names, in order.
	WaitingFor []string
}

// MaxWaitingFor bounds Progress.WaitingFor. Smaller hides more of a large deployment; larger makes answers large if the holder
// of a leaked service token registers many sidecars.
const MaxWaitingFor = 100

// ProgressOf returns the progress of the change with that revision at head.Now. Head and sidecars, which are all that are
// listed, in order, are of one snapshot. Feed.Progress returns the same without reading all of them.
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

// SetEffective sets Effective and EffectiveBy. Ends is the last moment at which a sidecar that Waiting counts may answer
// without the change; zero if there is none.
func (p *Progress) SetEffective(head Head, ends time.Time) {
	p.Effective = p.Waiting == 0 && !head.Now.Before(head.NotBefore)
	if !p.Effective {
		p.EffectiveBy = later(head.NotBefore, ends)
	}
}

// MaxGrants bounds the grants of a sidecar that polls repeatedly and gets no answer. Smaller refuses new leases to it sooner;
// larger makes its record larger.
const MaxGrants = 16

// answersWithout returns until when the sidecar may answer without the change; the zero Time if it has acknowledged it.
func (s *Sidecar) answersWithout(revision int64) (end time.Time) {
	if s.Revision >= revision {
		return end
	}
	for _, g := range s.Grants {
		if g.Covers < revision {
			end = g.StaleEndsAt // in rising order
		}
	}
	return end
}

// CheckNumber returns a Conflict if the number of the poll is not larger than the one on record, because the poll was delayed,
// repeated, or sent by a second process of that name; or if the sidecar has left or was forgotten.
func (s *Sidecar) CheckNumber(p Poll) error {
	switch {
	case p.Number <= s.Poll:
		return Conflictf("poll must be larger than %d, the number on record for this sidecar", s.Poll)
	case s.Gone && !p.Leave:
		return Conflictf("This sidecar has left or was forgotten: a new process needs a new name")
	}
	return nil
}

// Record records a poll when the log's head has that revision, and returns the lease that the answer may give. The ends are
// rounded up to microseconds, so that none on record is earlier than the one that was given. It does not change Poll.
//
// A poll whose answer reaches the head gets p.Lease. A poll whose answer leaves out changes, or that follows too many
// unanswered polls, gets at most the rest of the leases before it, so that a change's EffectiveBy never becomes later. If
// nothing is left, ok is false and nothing is recorded.
func (s *Sidecar) Record(p Poll, head int64, now time.Time) (lease time.Duration, ok bool) {
	next := *s
	next.Revision = max(s.Revision, p.Revision)
	staleEnd := roundUp(now.Add(p.Lease + p.MaxStale))
	reach := min(head, p.Revision+int64(p.Limit))
	next.Grants = relevant(next.Revision, now, s.Grants)
	widened := relevant(next.Revision, now, append(next.Grants, Grant{head, staleEnd}))
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

// relevant returns the grants that matter to a change after that revision: those that are not over, without any for which
// another one covers no more and ends no sooner. Acknowledged changes count as covered.
func relevant(revision int64, now time.Time, grants []Grant) []Grant {
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
