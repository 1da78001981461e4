package keycache_test

import "time"

// Scenes are what chance alone would seldom bring about: things that happen at the
// same time, or to the moment.

// aSidecar is one that is up to date: it follows the log and has every key in memory.
func (w *world) aSidecar(n int) *sidecar {
	if len(w.sidecars) == 0 {
		w.addSidecar()
	}
	s := w.sidecars[n%len(w.sidecars)]
	s.link.set(fine)
	pass(w.keyd.settings.Lease/3 + settled)
	for _, k := range w.keys {
		w.check(s, k, false)
	}
	pass(100 * time.Millisecond)
	return s
}

// flurry changes things while answers about them are on their way; perhaps the log gets
// a new epoch in the middle of it.
func (w *world) flurry(n int) {
	for _, s := range w.sidecars {
		s.link.set(lateResolves)
	}
	for range 6 {
		w.everything(false)
		pass(time.Duration(w.pick(60)) * time.Millisecond)
		w.mutate(1 + w.pick(4))
		pass(time.Duration(w.pick(120)) * time.Millisecond)
	}
	if n%3 == 0 {
		w.everything(false)
		pass(time.Duration(w.pick(20)) * time.Millisecond)
		w.mutate(1 + w.pick(4))
		w.restart(n%2 == 0, 0, func() {
			_, err := w.keyd.newEpoch()
			w.must(err)
		})
	}
	for range 20 {
		w.everything(false)
		pass(time.Duration(w.pick(100)) * time.Millisecond)
	}
}

// brink makes a change that one sidecar cannot hear of, and looks closely when its time
// is over by the key API's clock.
func (w *world) brink(n int) {
	s := w.aSidecar(n)
	s.link.set([]weather{swallowed, cut, swallowed, noPolls, deafened}[n%5])
	if n%2 == 0 {
		// The poll that waits at the key API is answered yet; the next one never arrives. So
		// both sides count from the same moment.
		pass(w.keyd.settings.Lease/3 + 10*time.Millisecond)
	}
	if n%5 == 3 {
		// Without a lease it goes on confirming what it has, nearly to the end of its time.
		for near := time.Now().Add((w.keyd.settings.Lease + w.times.MaxStale) * 8 / 10); time.Now().Before(near); {
			for _, k := range w.keys {
				w.check(s, k, false)
			}
			pass(100 * time.Millisecond)
		}
		s.link.set(cut)
	}
	w.mutate(1 + n%7)
	c := w.changes[len(w.changes)-1]
	pass(50 * time.Millisecond)
	w.look() // now it waits for that one alone, and its end is told
	for {
		w.mu.Lock()
		by, over := c.by, c.told || c.lost
		w.mu.Unlock()
		if over || by.IsZero() {
			return
		}
		left := time.Duration(float64(by.Sub(w.keyd.now())) / w.keyd.rate)
		switch {
		case left < -400*time.Millisecond:
			return
		case left < 100*time.Millisecond:
			pass(5 * time.Millisecond)
		default:
			pass(min(200*time.Millisecond, left-50*time.Millisecond))
		}
		for _, k := range w.keys {
			w.check(s, k, false)
		}
	}
}

// comeBack has one sidecar miss changes until its time is over, or until the log does not
// reach back to them any more. Then it follows the log again, and can ask nothing.
func (w *world) comeBack(n int) {
	s := w.aSidecar(n)
	s.link.set(cut)
	for range 3 {
		w.mutate(1 + w.pick(7))
	}
	away := (w.keyd.settings.Lease + w.times.MaxStale) * 11 / 10
	if n%2 == 0 {
		pass(w.keyd.settings.LogRetention % time.Minute * 11 / 10)
		w.restart(true, 0, func() {}) // and it prunes its log
		away = 0
	}
	for over := time.Now().Add(away); time.Now().Before(over); {
		pass(200 * time.Millisecond)
		w.some(5)
	}
	w.look()
	s.link.set(noResolves)
	for range 10 {
		pass(300 * time.Millisecond)
		w.look()
		for _, k := range w.keys {
			w.check(s, k, false)
		}
	}
}
