// Command authzd is the sidecar. It answers Envoy's external-authorization checks with what it gets
// from the key API, and it has no database.
//
// wiring.go connects the packages; the checks are in pkg/extauthz, the cache is in pkg/keycache.
package main

import (
	"os"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:], program)) }
