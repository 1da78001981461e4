//go:build cgo

package abi

// #include "filter.h"
import "C"

import (
	"sync"
	"sync/atomic"
)

// table gives C numbers for Go objects. Reads take no lock, because each check reads twice; a change
// copies the table, because changes are as rare as updates of Envoy's configuration. The zero value is
// empty.
type table struct {
	mu      sync.Mutex // serializes changes
	entries atomic.Pointer[[]*any]
}

// add returns a number above 0 for an object.
func (t *table) add(object any) C.uintptr_t {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.all()
	for i, entry := range old {
		if entry == nil {
			t.set(i, &object)
			return C.uintptr_t(i + 1)
		}
	}
	entries := append(append(make([]*any, 0, len(old)+1), old...), &object)
	t.entries.Store(&entries)
	return C.uintptr_t(len(entries))
}

// get returns the object with a number. It panics if there is none.
func (t *table) get(number C.uintptr_t) any { return *t.all()[number-1] }

// remove removes the object with a number. Envoy has ended all its uses.
func (t *table) remove(number C.uintptr_t) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(int(number-1), nil)
}

func (t *table) all() []*any {
	if entries := t.entries.Load(); entries != nil {
		return *entries
	}
	return nil
}

// set replaces an entry in a copy.
func (t *table) set(i int, entry *any) {
	entries := append([]*any(nil), t.all()...)
	entries[i] = entry
	t.entries.Store(&entries)
}
