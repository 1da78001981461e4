package keyserver

import (
	"context"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// maxMarks bounds the moments that pending keeps. Fewer makes the age of a change too large after many changes that are
// not effective; more costs memory.
const maxMarks = 1024

// pending knows when this process has first seen the changes that are not effective yet. It is safe for concurrent use.
type pending struct {
	mu        sync.Mutex
	epoch     string
	effective int64  // all changes up to it were effective at the last count
	marks     []mark // in order, of later changes
}

// mark says when the head was seen at a revision.
type mark struct {
	revision int64
	at       time.Time
}

// note records a head of the log.
func (p *pending) note(head keystore.Head, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if head.Epoch != p.epoch {
		p.epoch, p.effective, p.marks = head.Epoch, 0, nil
	}
	last := len(p.marks) - 1
	switch {
	case last >= 0 && p.marks[last].revision >= head.Revision || head.Revision <= p.effective:
	case len(p.marks) == maxMarks:
		p.marks[last].revision = head.Revision // its age is then too large, not too small
	default:
		p.marks = append(p.marks, mark{head.Revision, now})
	}
}

// start returns the revision up to which all changes were effective at the last count.
func (p *pending) start(head keystore.Head) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if head.Epoch != p.epoch {
		return 0
	}
	return min(p.effective, head.Revision)
}

// settle records that all changes up to the revision are effective. It returns when the next one was seen, zero if there
// is none.
func (p *pending) settle(head keystore.Head, effective int64) (oldest time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if head.Epoch != p.epoch {
		return oldest // the log was replaced just now
	}
	p.effective = effective
	for len(p.marks) > 0 && p.marks[0].revision <= effective {
		p.marks = p.marks[1:]
	}
	if len(p.marks) > 0 {
		oldest = p.marks[0].at
	}
	return oldest
}

// effectiveUpTo returns the revision up to which no change waits for a sidecar. If a change is effective, those before it
// are, too. So it needs one read if all are, else the logarithm of the changes since the last count.
func (s *Server) effectiveUpTo(ctx context.Context, head keystore.Head) (int64, error) {
	low, high := s.pending.start(head), head.Revision+1 // effective; not effective
	for mid := head.Revision; low < mid; mid = low + (high-low)/2 {
		_, progress, err := s.store.Progress(ctx, mid)
		switch {
		case err != nil:
			return 0, err
		case progress.Waiting == 0:
			low = mid
		default:
			high = mid
		}
	}
	return low, nil
}

// countSidecars updates the metrics of sidecars and of changes that are not effective, so that a scrape does not wait for
// the store.
func (s *Server) countSidecars(ctx context.Context) error {
	head, leases, err := s.store.Leases(ctx)
	if err != nil {
		return err
	}
	effective, err := s.effectiveUpTo(ctx, head)
	if err != nil {
		return err
	}
	m := s.metrics
	m.sidecars.Set(float64(leases.Count))
	m.behind.Set(float64(head.Revision - leases.Revision))
	m.slowest.Set(s.sincePoll(head, leases).Seconds())
	m.pending.Set(float64(head.Revision - effective))
	m.oldest.Set(0)
	if oldest := s.pending.settle(head, effective); !oldest.IsZero() {
		m.oldest.Set(time.Since(oldest).Seconds())
	}
	m.counted.SetToCurrentTime()
	return nil
}

// sincePoll returns the time since the last poll of the sidecar whose lease ends first. Each poll begins a lease.
func (s *Server) sincePoll(head keystore.Head, leases keystore.Leases) time.Duration {
	if leases.Count == 0 {
		return 0
	}
	return max(0, s.settings.Load().Lease-leases.FirstEnd.Sub(head.Now))
}
