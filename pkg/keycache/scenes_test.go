package keycache_test

import "time"

// Scenes are sequences that random steps seldom produce, because their timing is exact.

// upToDateSidecar returns a sidecar that follows the log and has cached every key.
func (w *world) upToDateSidecar(n int) *sidecar {
	if len(w.sidecars) == 0 {
		w.addSidecar()
	}
	s := w.sidecars[n%len(w.sidecars)]
	s.link.set(normal)
	advance(w.keyd.settings.Lease/3 + recoveryTime)
	for _, k := range w.keys {
		w.check(s, k, false)
	}
	advance(100 * time.Millisecond)
	return s
}

// changesDuringResolves changes facts while resolves are in flight, sometimes with a new epoch.
func (w *world) changesDuringResolves(n int) {
	for _, s := range w.sidecars {
		s.link.set(lateResolves)
	}
	for range 6 {
		w.checkAll(false)
		advance(time.Duration(w.pick(60)) * time.Millisecond)
		w.mutate(1 + w.pick(4))
		advance(time.Duration(w.pick(120)) * time.Millisecond)
	}
	if n%3 == 0 {
		w.checkAll(false)
		advance(time.Duration(w.pick(20)) * time.Millisecond)
		w.mutate(1 + w.pick(4))
		w.restart(n%2 == 0, 0, func() {
			_, err := w.keyd.newEpoch()
			w.must(err)
		})
	}
	for range 20 {
		w.checkAll(false)
		advance(time.Duration(w.pick(100)) * time.Millisecond)
	}
}

// expiry makes a change that one sidecar does not receive, and checks frequently around the end of
// its stale time by the key API's clock.
func (w *world) expiry(n int) {
	s := w.upToDateSidecar(n)
	s.link.set([]condition{blackholed, disconnected, blackholed, noPolls, noAnswers}[n%5])
	if n%2 == 0 {
		// The poll in flight is still answered; the next one does not arrive. So both sides count from
		// the same moment.
		advance(w.keyd.settings.Lease/3 + 10*time.Millisecond)
	}
	if n%5 == 3 {
		// Without a lease it revalidates its entries nearly until its stale time ends.
		for near := time.Now().Add((w.keyd.settings.Lease + w.times.MaxStale) * 8 / 10); time.Now().Before(near); {
			for _, k := range w.keys {
				w.check(s, k, false)
			}
			advance(100 * time.Millisecond)
		}
		s.link.set(disconnected)
	}
	w.mutate(1 + n%7)
	c := w.changes[len(w.changes)-1]
	advance(50 * time.Millisecond)
	w.checkPending() // the change waits for that sidecar alone
	for {
		w.mu.Lock()
		by, over := c.by, c.effective || c.lost
		w.mu.Unlock()
		if over || by.IsZero() {
			return
		}
		left := time.Duration(float64(by.Sub(w.keyd.now())) / w.keyd.rate)
		switch {
		case left < -400*time.Millisecond:
			return
		case left < 100*time.Millisecond:
			advance(5 * time.Millisecond)
		default:
			advance(min(200*time.Millisecond, left-50*time.Millisecond))
		}
		for _, k := range w.keys {
			w.check(s, k, false)
		}
	}
}

// rejoin has one sidecar miss changes until its stale time is over, or until the log does not reach
// back to them. Then it follows the log again, without resolves.
func (w *world) rejoin(n int) {
	s := w.upToDateSidecar(n)
	s.link.set(disconnected)
	for range 3 {
		w.mutate(1 + w.pick(7))
	}
	away := (w.keyd.settings.Lease + w.times.MaxStale) * 11 / 10
	if n%2 == 0 {
		advance(w.keyd.settings.LogRetention % time.Minute * 11 / 10)
		w.restart(true, 0, func() {}) // it prunes its log
		away = 0
	}
	for over := time.Now().Add(away); time.Now().Before(over); {
		advance(200 * time.Millisecond)
		w.checkSome(5)
	}
	w.checkPending()
	s.link.set(noResolves)
	for range 10 {
		advance(300 * time.Millisecond)
		w.checkPending()
		for _, k := range w.keys {
			w.check(s, k, false)
		}
	}
}

// The scenes below reproduce known faults: each breaks the guarantee of an effective change, or has
// changes wait for a stopped process.

// replaceSidecar stops one sidecar and starts another over the link.
func (w *world) replaceSidecar(n int, l *link) *sidecar {
	if len(w.sidecars) > 2 {
		n %= len(w.sidecars)
		old := w.sidecars[n]
		w.sidecars = append(w.sidecars[:n:n], w.sidecars[n+1:]...)
		old.shutdown()
	}
	return w.addSidecarOver(l)
}

// mutateAndCheck makes a change, requests its progress, and checks all keys at one sidecar.
func (w *world) mutateAndCheck(s *sidecar, kind int) {
	w.mutate(2 + kind%6)
	advance(50 * time.Millisecond)
	w.checkPending()
	for range 3 {
		w.checkAt(s)
		advance(100 * time.Millisecond)
	}
}

// pollWait is a little longer than the wait of the sidecars' polls.
func (w *world) pollWait() time.Duration {
	return w.keyd.settings.Lease*3/10 + 50*time.Millisecond
}

// setAfterPoll sets the condition and waits until the poll in flight is answered.
func (w *world) setAfterPoll(s *sidecar, to condition) {
	s.link.set(to)
	advance(w.pollWait())
}

func (w *world) checkAt(s *sidecar) {
	for _, k := range w.keys {
		w.check(s, k, false)
	}
}

// coldStartBehindIntermediary starts a sidecar whose polls an intermediary answers with 404.
func (w *world) coldStartBehindIntermediary(n int) {
	l := w.network.link()
	l.set(notFound)
	s := w.replaceSidecar(n, l)
	advance(500 * time.Millisecond)
	for i := range 3 {
		w.checkAt(s)
		advance(20 * time.Millisecond)
		w.mutateAndCheck(s, n+i)
	}
	if n%2 == 0 {
		s.link.set(disconnected)
		w.mutateAndCheck(s, n)
	}
	s.link.set(normal)
}

// delayedFirstPoll starts a sidecar whose first poll arrives seconds later, when the sidecar follows
// the log and cannot be reached. A change comes just before.
func (w *world) delayedFirstPoll(n int) {
	l := w.network.link()
	delay := w.pollWait() + 2*time.Second + time.Duration(n)*10*time.Millisecond
	l.firstPoll = delay
	began := time.Now()
	s := w.replaceSidecar(n, l)
	advance(1300 * time.Millisecond)
	w.checkAt(s)
	w.setAfterPoll(s, []condition{blackholed, noPolls}[n%2])
	advance(delay - 100*time.Millisecond - time.Since(began))
	w.mutate(2 + n%6)
	for range 12 {
		advance(50 * time.Millisecond)
		w.checkPending()
		w.checkAt(s)
	}
	s.link.set(normal)
}

// deregistrationOvertaken stops a sidecar while its polls are in flight.
func (w *world) deregistrationOvertaken(n int) {
	s := w.upToDateSidecar(n)
	s.link.set([]condition{doubledPolls, delayedPolls}[n%2])
	advance(w.keyd.settings.Lease/3 + time.Second)
	s.link.set(normal)
	for i, other := range w.sidecars {
		if other == s {
			w.sidecars = append(w.sidecars[:i:i], w.sidecars[i+1:]...)
			break
		}
	}
	s.shutdown()
	for range 10 {
		advance(time.Duration(w.pick(1000)) * time.Millisecond)
		w.mutate(1 + w.pick(7))
		w.checkPending()
	}
	w.addSidecar()
}

// copySidecar starts a copy of a sidecar, as a snapshot of a virtual machine does: both poll under one
// name. The guarantee holds again, for both, once one of them has another name.
func (w *world) copySidecar(n int) {
	original := w.upToDateSidecar(n)
	if len(w.sidecars) > 2 {
		return
	}
	c := w.newSidecar(w.network.link())
	c.cache = original.cache.Clone(c.client, w.options())
	w.setNameShared(true, original, c)
	c.run()
	w.sidecars = append(w.sidecars, c)
	original.link.set([]condition{normal, slow, lossy, delayedPolls}[n%4])
	for range 5 {
		advance(time.Duration(w.pick(700)) * time.Millisecond)
		w.mutate(1 + w.pick(7))
		w.checkAll(false)
	}
	for _, s := range []*sidecar{original, c} {
		s.link.set(normal)
	}
	advance(w.keyd.settings.Lease/3 + recoveryTime + 8*time.Second) // polls in flight arrive
	w.setNameShared(false, original, c)
	w.checkAll(false)
	advance(100 * time.Millisecond)
	for i, s := range []*sidecar{original, c} {
		w.setAfterPoll(s, blackholed)
		w.mutateAndCheck(s, n+i)
		s.link.set(normal)
		advance(time.Second)
	}
}

func (w *world) setNameShared(nameShared bool, sidecars ...*sidecar) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range sidecars {
		s.nameShared = nameShared
	}
}
