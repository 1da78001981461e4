// Command authzd is the sidecar: it answers Envoy's external-authorization checks.
// It keeps no database and links no driver of one; all that it knows it has from
// the key API.
//
// The parts are put together in wiring.go; what they do is in pkg/extauthz and
// pkg/keycache.
package main

import (
	"os"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:], program)) }
