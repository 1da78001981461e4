// Command keyd is the key API server. It stores accounts, API keys and sessions as digests in a
// database, sends them and every change to sidecars, and serves operators and, behind Envoy, the
// owners of accounts.
//
// wiring.go connects the packages; the API is in pkg/keyserver, the database in pkg/keystore.
package main

import (
	"os"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:], program)) }
