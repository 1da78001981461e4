//go:build cgo

// Command module is the Envoy module: libphantom_authz.so, a shared library that Envoy loads with
// dynamic_modules. It checks requests inside Envoy as authzd does beside it. "make module" builds it;
// CGO_ENABLED=0 leaves it out.
//
// main.go registers the filter with the SDK, engines.go keeps the engines, runtime.go tunes Go.
package main

import (
	sdk "github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule"
	_ "github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule/abi" // the functions that Envoy calls
)

func init() {
	tuneRuntime()
	sdk.RegisterHttpFilterConfigFactories(envoymodule.Module{Open: open, Route: route}.Factories())
}

// main is not called: the program is a shared library.
func main() {}
