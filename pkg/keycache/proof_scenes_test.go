package keycache_test

import "time"

// These scenes are the faults of the first version: each breaks the promise of a change that
// is said to be effective, or has changes wait for a process that has stopped.

// replaceSidecar stops one sidecar and starts another over the link.
func (w *world) replaceSidecar(n int, l *link) *sidecar {
	if len(w.sidecars) > 2 {
		n %= len(w.sidecars)
		old := w.sidecars[n]
		w.sidecars = append(w.sidecars[:n:n], w.sidecars[n+1:]...)
		old.leave()
	}
	return w.addSidecarOver(l)
}

// mutateAndCheck makes a change, asks how far it is, and checks all keys at one sidecar.
func (w *world) mutateAndCheck(s *sidecar, kind int) {
	w.mutate(2 + kind%6)
	pass(50 * time.Millisecond)
	w.look()
	for range 3 {
		w.checkAt(s)
		pass(100 * time.Millisecond)
	}
}

// pollWait is how long the sidecars have the key API hold a poll, a moment more.
func (w *world) pollWait() time.Duration {
	return w.keyd.settings.Lease*3/10 + 50*time.Millisecond
}

// silence changes the weather, and waits until the poll that waits at the key API is answered.
func (w *world) silence(s *sidecar, to weather) {
	s.link.set(to)
	pass(w.pollWait())
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
	pass(500 * time.Millisecond)
	for i := range 3 {
		w.checkAt(s)
		pass(20 * time.Millisecond)
		w.mutateAndCheck(s, n+i)
	}
	if n%2 == 0 {
		s.link.set(cut)
		w.mutateAndCheck(s, n)
	}
	s.link.set(fine)
}

// delayedFirstPoll starts a sidecar whose first poll arrives seconds later, when it follows the
// log already and cannot be reached: a change comes just before.
func (w *world) delayedFirstPoll(n int) {
	l := w.network.link()
	delay := w.pollWait() + 2*time.Second + time.Duration(n)*10*time.Millisecond
	l.firstPoll = delay
	began := time.Now()
	s := w.replaceSidecar(n, l)
	pass(1300 * time.Millisecond)
	w.checkAt(s)
	w.silence(s, []weather{swallowed, noPolls}[n%2])
	pass(delay - 100*time.Millisecond - time.Since(began))
	w.mutate(2 + n%6)
	for range 12 {
		pass(50 * time.Millisecond)
		w.look()
		w.checkAt(s)
	}
	s.link.set(fine)
}

// goodbyeOvertaken stops a sidecar while polls of it are on their way.
func (w *world) goodbyeOvertaken(n int) {
	s := w.aSidecar(n)
	s.link.set([]weather{doubledPolls, delayedPolls}[n%2])
	pass(w.keyd.settings.Lease/3 + time.Second)
	s.link.set(fine)
	for i, other := range w.sidecars {
		if other == s {
			w.sidecars = append(w.sidecars[:i:i], w.sidecars[i+1:]...)
			break
		}
	}
	s.leave()
	for range 10 {
		pass(time.Duration(w.pick(1000)) * time.Millisecond)
		w.mutate(1 + w.pick(7))
		w.look()
	}
	w.addSidecar()
}

// copySidecar starts a copy of a sidecar, as a snapshot of a virtual machine does: both poll under
// one name. Nothing is promised until one of them has another; then all is, of both.
func (w *world) copySidecar(n int) {
	original := w.aSidecar(n)
	if len(w.sidecars) > 2 {
		return
	}
	c := w.newSidecar(w.network.link())
	c.cache = original.cache.Clone(c.client, w.options())
	w.doubt(true, original, c)
	c.run()
	w.sidecars = append(w.sidecars, c)
	original.link.set([]weather{fine, slow, lossy, delayedPolls}[n%4])
	for range 5 {
		pass(time.Duration(w.pick(700)) * time.Millisecond)
		w.mutate(1 + w.pick(7))
		w.everything(false)
	}
	for _, s := range []*sidecar{original, c} {
		s.link.set(fine)
	}
	pass(w.keyd.settings.Lease/3 + settled + 8*time.Second) // polls on their way arrive
	w.doubt(false, original, c)
	w.everything(false)
	pass(100 * time.Millisecond)
	for i, s := range []*sidecar{original, c} {
		w.silence(s, swallowed)
		w.mutateAndCheck(s, n+i)
		s.link.set(fine)
		pass(time.Second)
	}
}

func (w *world) doubt(doubtful bool, sidecars ...*sidecar) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range sidecars {
		s.doubtful = doubtful
	}
}
