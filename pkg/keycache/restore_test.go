package keycache_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// backup is a copy of the store's file, with the facts of that moment.
type backup struct {
	path       string
	epoch      string
	revision   int64
	keys       map[string]key // id and last fact
	terminated map[string]bool
}

// readEpoch reads the key API's epoch.
func (w *world) readEpoch() {
	any := credential.NewSecret("any").Digest().Hex()
	r := w.keyd.sidecar(context.Background(), sidecarapi.ResolvePath, []byte(`{"credentials":["`+any+`"]}`))
	var head sidecarapi.ResolveResponse
	w.must(json.Unmarshal(r.body, &head))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.epoch = head.Epoch
	w.highest[w.epoch] = max(w.highest[w.epoch], head.Revision)
}

// restart restarts the key API and calls do in between.
func (w *world) restart(drain bool, away time.Duration, do func()) {
	w.must(w.keyd.stop(drain))
	advance(away)
	do()
	w.must(w.keyd.start())
	w.readEpoch()
}

// backUp copies the store. The key API is down.
func (w *world) backUp() {
	b := &backup{path: filepath.Join(w.keyd.folder, "copy.db"), epoch: w.epoch, keys: make(map[string]key), terminated: make(map[string]bool)}
	w.must(copyStore(w.keyd.path(), b.path))
	for _, k := range w.keys {
		b.keys[k.name] = key{id: k.id, history: k.history[len(k.history)-1:]}
	}
	for _, c := range w.changes {
		if !c.lost {
			b.revision = max(b.revision, c.revision)
		}
	}
	b.revision = max(b.revision, accounts)
	for account, terminated := range w.terminated {
		b.terminated[account] = terminated
	}
	w.backup = b
}

// restore restores the copy. The key API is down. With a new epoch, which the contract requires, all
// guarantees hold, also those of before. Changes that are not in the copy are undone at lease +
// longest_max_stale after the restore.
//
// Without a new epoch, the log may reuse revisions that sidecars have acknowledged, and may not have live
// sidecars on record. Then these guarantees hold: those of before the restore; and those of a change after
// it, if its revision was never used in this epoch and lease + longest_max_stale have passed
// since the restore, so that no sidecar holds a lease that is not on record. Of all other changes
// only this holds: sidecars revalidate after max_age.
func (w *world) restore(withEpoch bool) {
	b := w.backup
	if b == nil {
		return
	}
	w.must(copyStore(b.path, w.keyd.path()))
	w.keyd.clearDeregistered()
	back := &change{unproven: !withEpoch, lost: true}
	if withEpoch {
		head, err := w.keyd.newEpoch()
		w.must(err)
		back.by = head.NotBefore
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unproven.revision = 0
	if !withEpoch {
		w.unproven.revision = w.highest[b.epoch]
		w.unproven.until = w.keyd.now().Add(w.keyd.settings.Lease + w.keyd.settings.LongestMaxStale)
	}
	for _, c := range w.changes {
		c.lost = c.lost || c.revision > b.revision
	}
	for _, k := range w.keys {
		was, known := b.keys[k.name]
		f := fact{}
		k.id = ""
		if known {
			f, k.id = was.history[0].fact, was.id
		}
		if f != k.current() {
			k.set(f, back)
		}
	}
	w.terminated = make(map[string]bool)
	for account, terminated := range b.terminated {
		w.terminated[account] = terminated
	}
}
