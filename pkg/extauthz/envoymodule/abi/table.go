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
type table[T any] struct {
	mu      sync.Mutex // serializes changes
	entries atomic.Pointer[[]*T]
}

// add returns a number above 0 for an object.
func (t *table[T]) add(object T) C.uintptr_t {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.all()
	for i, entry := range old {
		if entry == nil {
			t.set(i, &object)
			return C.uintptr_t(i + 1)
		}
	}
	entries := append(append(make([]*T, 0, len(old)+1), old...), &object)
	t.entries.Store(&entries)
	return C.uintptr_t(len(entries))
}

// get returns the object with a number. It panics if there is none.
func (t *table[T]) get(number C.uintptr_t) T { return *t.all()[number-1] }

// remove removes the object with a number. Envoy has ended all its uses.
func (t *table[T]) remove(number C.uintptr_t) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(int(number-1), nil)
}

func (t *table[T]) all() []*T {
	if entries := t.entries.Load(); entries != nil {
		return *entries
	}
	return nil
}

// set replaces an entry in a copy.
func (t *table[T]) set(i int, entry *T) {
	entries := append([]*T(nil), t.all()...)
	entries[i] = entry
	t.entries.Store(&entries)
}
