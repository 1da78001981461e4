//go:build cgo

package abi

// #include "filter.h"
import "C"

import "unsafe"

// answer is the operations that a check asks for. The memory is used again for the next check.
type answer struct {
	operations []C.operation
	text       []byte
	space      string // the namespace of the metadata so far
}

// maxText is how much memory an answer keeps for the next check, in bytes. Most need less than a KiB.
// More is rarely used; less allocates for long lists of scopes.
const maxText = 16 << 10

// add adds an operation and copies its text.
func (a *answer) add(kind, number uint32, key, value string) {
	o := C.operation{
		kind: C.uint32_t(kind), number: C.uint32_t(number),
		key: C.uint32_t(len(a.text)), key_length: C.uint32_t(len(key)), value_length: C.uint32_t(len(value)),
	}
	a.text = append(a.text, key...)
	o.value = C.uint32_t(len(a.text))
	a.text = append(a.text, value...)
	a.operations = append(a.operations, o)
}

// use adds the namespace of the metadata that follows, unless it is that already.
func (a *answer) use(space string) {
	if a.space != space {
		a.space = space
		a.add(C.set_namespace, 0, space, "")
	}
}

// apply does the operations and forgets them.
func (a *answer) apply(stream C.envoy_stream) {
	operations, text := unsafe.SliceData(a.operations), (*C.char)(unsafe.Pointer(unsafe.SliceData(a.text)))
	n := C.size_t(len(a.operations))
	a.operations, a.space = a.operations[:0], ""
	if a.text = a.text[:0]; cap(a.text) > maxText {
		a.text = nil
	}
	if n > 0 {
		C.phantom_apply(stream, operations, n, text)
	}
}
