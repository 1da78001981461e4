// Command keyd is the key API server: it keeps accounts, API keys and sessions as
// digests in a database, tells sidecars about them and of every change, and serves
// operators and, behind Envoy, the accounts' owners.
//
// The parts are put together in wiring.go; what they do is in pkg/keyserver and
// pkg/keystore.
package main

import (
	"os"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:], program)) }
