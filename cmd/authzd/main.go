// Command authzd is the sidecar: it answers Envoy's external-authorization checks.
// It keeps no database and links no driver of one; all that it knows it has from
// the key API.
package main

import (
	"net"
	"os"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:], program())) }

func program() daemon.Program[*config.Authzd] {
	return daemon.Program[*config.Authzd]{
		Name:    "authzd",
		Summary: "answers Envoy's external-authorization checks of API keys and console sessions.",
		Load:    config.LoadAuthzd,
		Admin:   func(path string) (net.Addr, error) { return config.AuthzdAdmin(path) },
		Print:   config.Print[config.Authzd],
		Settings: func(c *config.Authzd) daemon.Settings {
			return daemon.Settings{Admin: c.Listen.Admin, Drain: c.Drain, LogLevel: c.Log.Level}
		},
		NeedsRestart: config.NeedsRestart[config.Authzd],
		Start:        start,
	}
}
