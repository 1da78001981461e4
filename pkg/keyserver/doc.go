// Package keyserver is the key API over HTTP: three sides on one store.
//
//	sidecars   resolve, changes (the long poll), usage   service token or mutual TLS
//	operators  accounts, keys, sessions, audit           operators' tokens
//	owners     an account's own keys                     Envoy's identity headers
//
// A request goes through side.go (who asks, which route, bounds), one operation
// in a file named after its subject, and answer.go, which alone encodes answers
// and maps errors. An operation never writes to the connection itself: it returns
// its whole answer or an error, so that nothing half-done is ever sent.
//
// What a change has reached is told by change.go. The order of two steps in
// poll.go bears the proof behind it: a sidecar's poll is recorded first, and only
// then is the log read for it.
package keyserver
