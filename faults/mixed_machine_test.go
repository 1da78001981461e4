package faults_test

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// stallAfter is the delay of a probe from which on the machine has stalled. Smaller takes the queue of a busy processor for a stall;
// larger takes a stall of the machine for slow requests.
const stallAfter = 250 * time.Millisecond

// machine notices stalls of the whole machine, or of this program. Its probes pass neither Envoy nor a sidecar: a timer, and an echo
// over TCP on loopback. What they take is what a request through nothing would have taken.
type machine struct {
	echo net.Conn

	mu     sync.Mutex
	probed time.Time     // end of the last probe
	worst  time.Duration // since the last take
	stalls []period
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	w := &machine{echo: must(net.Dial("tcp", listener.Addr().String()))(t)}
	t.Cleanup(func() { _ = w.echo.Close(); _ = listener.Close() })
	return w
}

// run probes until ctx ends.
func (w *machine) run(ctx context.Context, t *testing.T) {
	const every = 20 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	one := make([]byte, 1)
	w.note(time.Now(), 0)
	for last := time.Now(); ctx.Err() == nil; {
		<-tick.C
		now := time.Now()
		late := now.Sub(last) - every
		_, err := w.echo.Write(one)
		if err == nil {
			_, err = io.ReadFull(w.echo, one)
		}
		if err != nil {
			t.Errorf("echo: %v", err)
			return
		}
		w.note(last, max(late, time.Since(now)))
		last = now
	}
}

// note notes the delay of a probe that began at the end of the one before.
func (w *machine) note(began time.Time, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probed, w.worst = time.Now(), max(w.worst, took)
	if took < stallAfter {
		return
	}
	w.stalls = append(w.stalls, period{name: "stall", begin: began, end: w.probed})
}

// take returns the longest delay since the last call.
func (w *machine) take() (worst time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	worst, w.worst = w.worst, 0
	return worst
}

// stalled reports whether the machine has stalled, for a moment at least, between these times, of which the second is not long ago.
func (w *machine) stalled(from, to time.Time) bool { return w.stalledFor(stallAfter, from, to) }

// stalledFor is stalled for stalls of at least that duration.
func (w *machine) stalledFor(least time.Duration, from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); !w.probed.IsZero() && now.Sub(w.probed) >= least && w.probed.Before(to) {
		return true // the probe in progress will note it
	}
	return slices.ContainsFunc(w.stalls, func(p period) bool { return p.end.Sub(p.begin) >= least && p.overlaps(from, to) })
}

func TestMachineNotesStalls(t *testing.T) {
	t.Parallel()
	w, began := newMachine(t), time.Now()
	w.note(began, stallAfter-1)
	if w.stalled(began, time.Now()) {
		t.Error("a short delay is a stall")
	}
	w.note(began.Add(-stallAfter), stallAfter)
	if !w.stalled(began, time.Now()) || w.stalled(began.Add(-2*time.Second), began.Add(-time.Second)) {
		t.Errorf("stalls %+v, want one since %v", w.stalls, began)
	}
	if w.stalledFor(time.Hour, began, time.Now()) {
		t.Error("a short stall is one of an hour")
	}
	w.probed = time.Now().Add(-time.Hour)
	if !w.stalledFor(time.Hour, began, time.Now()) {
		t.Error("a probe in progress for an hour is not a stall")
	}
	if worst := w.take(); worst != stallAfter || w.take() != 0 {
		t.Errorf("the longest delay is %v, want %v, and then 0", worst, stallAfter)
	}
}
