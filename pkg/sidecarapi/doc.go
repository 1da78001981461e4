// Package sidecarapi is the protocol between the sidecar and a key API: its wire
// types, shared with the server, and the sidecar's client. Only digests pass here,
// never a plaintext.
//
// The client trusts no answer: bodies are bounded, JSON is read strictly, and a
// result that lacks something or has a value that the protocol does not know
// teaches nothing. The three outcomes of asking about a digest are found, not
// found, and nothing learned; only the first two may be remembered.
package sidecarapi
