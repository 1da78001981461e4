//go:build cgo

// Package abi connects the filters of a module with Envoy: it has the C functions that Envoy calls and
// calls those of Envoy. It takes the place of the SDK's package sdk/go/abi, and the filters see the
// SDK's interfaces: those registered with sdk.RegisterHttpFilterConfigFactories. Import it for its
// effect, in a shared library.
//
// It implements what a filter that answers in the request headers or waits needs. Other methods of the
// SDK's interfaces panic.
//
// # Algorithm and cost
//
// The SDK changes to Go six times for each stream and back to C for each header and each value of
// metadata; a change costs about as much as a look-up in the cache. Here C collects the headers and
// the route, changes to Go once, and Go returns all that is to be done in one list of operations,
// which C does. Streams that wait change once more for their look-up's answer and once for their end.
//
// envoy.h declares Envoy's interface. Envoy calls filter.c, config.c and unused.c; stream.go and config.go
// are their part in Go. answer.go is the list of operations, table.go gives C numbers for Go objects.
//
// # Failures
//
// A stream continues only if Go said so. Every function that C calls recovers. Without memory, without
// an object of Go, or after a panic here, the request is answered with 503 or stays stopped.
package abi

/*
#cgo CFLAGS: -O2 -Wall
#cgo linux LDFLAGS: -Wl,--unresolved-symbols=ignore-all
#cgo noescape phantom_apply
#include "filter.h"
*/
import "C"
