package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Runtime is what the frame hands to a program.
type Runtime struct {
	// Log writes JSON lines to stderr at the configured level.
	Log *zap.Logger
	// Metrics is what /metrics shows.
	Metrics *prometheus.Registry
}

// Component is one named part of a running program. A part that only has to be closed has no Run.
type Component struct {
	// Name of the part in logs.
	Name string
	// Run works until Stop is called or its context is cancelled, which happens when Stop returns. When it
	// returns before that, the whole program stops with exit code 1; a panic counts as an error.
	Run func(ctx context.Context) error
	// Stop ends the part. Its context ends before the drain time does: then it must let go of everything at once.
	Stop func(ctx context.Context) error
}

// Add puts the component on top of the stack and starts its Run. The stack is stopped from the top.
func (rt *Runtime) Add(c Component) {}

// ReadyWhen adds a condition of /readyz: nil when it holds, else the reason, which everybody may read.
func (rt *Runtime) ReadyWhen(name string, check func() error) {}

// Draining returns a channel that is closed when the program begins to stop: long polls end then.
func (rt *Runtime) Draining() <-chan struct{} { return nil }

// Listen binds an address of the configuration's field. Connections are taken from now on, but a Unix socket gets its name only when
// Start has returned without an error. The frame closes it if the start fails.
func (rt *Runtime) Listen(field string, addr net.Addr) (net.Listener, error) {
	return nil, errors.New("not yet")
}

// ServeHTTP adds a component that serves HTTP on the listener, with TLS if conf is not nil and the listener is TCP, with time limits that
// suit long polls. A stop waits for requests under way.
func (rt *Runtime) ServeHTTP(name string, ln net.Listener, conf *tls.Config, h http.Handler) {}
