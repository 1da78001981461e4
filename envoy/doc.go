// Package envoy carries the configuration that runs in front of the API, finds a
// real Envoy to run it in, and holds the tests that do so.
//
// envoy.yaml is the one file: Render changes nothing in it but addresses.
package envoy
