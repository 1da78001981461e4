package keyserver

import (
	"sync"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// acks counts the acknowledgements that this process records, for the requests that wait for a change. Reading a change's
// progress after each of hundreds of acknowledgements would take the processor from the next ones; a pause between two reads
// would delay the answer after the last one.
type acks struct {
	mu     sync.Mutex
	counts map[*ackCount]struct{}
}

// ackCount is the count of one request.
type ackCount struct {
	of       *acks
	revision int64 // of the change
	counted  int
	enough   int
	reached  chan struct{} // closed, and set to nil, when enough are counted
}

// begin begins a count for a change. Call end once.
func (a *acks) begin(revision int64) *ackCount {
	c := &ackCount{of: a, revision: revision}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.counts == nil {
		a.counts = map[*ackCount]struct{}{}
	}
	a.counts[c] = struct{}{}
	return c
}

func (c *ackCount) end() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	delete(c.of.counts, c)
}

// restart counts from zero. Call it before the progress is read, so that no acknowledgement after the read is missed.
func (c *ackCount) restart() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.counted, c.reached = 0, nil
}

// after returns a channel that is closed once n acknowledgements, if any, have been counted since restart. A sidecar that polls twice
// counts twice, and one that polls another process does not count: the caller reads the progress again in any case.
func (c *ackCount) after(n int) <-chan struct{} {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if n == 0 {
		return nil
	}
	reached := make(chan struct{})
	c.enough, c.reached = n, reached
	c.closeIfEnough()
	return reached
}

func (c *ackCount) closeIfEnough() {
	if c.reached != nil && c.counted >= c.enough {
		close(c.reached)
		c.reached = nil
	}
}

// recorded counts a poll that the store has recorded.
func (a *acks) recorded(p keystore.Poll) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.counts {
		if p.Leave || p.Revision >= c.revision {
			c.counted++
			c.closeIfEnough()
		}
	}
}
