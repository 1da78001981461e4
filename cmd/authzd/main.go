// Command authzd is the sidecar. It answers Envoy's external-authorization checks with what it gets
// from the key API, and it has no database.
//
// wiring.go connects the packages; the checks are in pkg/extauthz, the cache is in pkg/keycache.
// lint.go is the subcommand that checks Envoy's configuration.
package main

import (
	"os"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

func main() {
	if args := os.Args[1:]; len(args) > 0 && args[0] == "lint" {
		os.Exit(lint(args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
	}
	os.Exit(daemon.Main(os.Args[1:], program))
}
