// Package sidecarapi is the protocol between the sidecar and a key API: its wire types, which the
// server shares, and the sidecar's client. It transfers digests only, never a plaintext.
//
// The client validates every response: bodies are bounded and JSON is read strictly. The outcome of
// resolving a digest is Found, NotFound or Unusable. A result that misses a field or has an
// unknown value is Unusable, and only Found and NotFound may be cached.
package sidecarapi
