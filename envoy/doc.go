// Package envoy contains the configuration of the Envoy in front of the API, finds a real Envoy that runs it, and tests it
// there.
//
// envoy.yaml is the only configuration: Render changes its addresses and nothing else.
package envoy
