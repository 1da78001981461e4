package daemon

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
)

// Runtime provides the services of the frame to a program.
type Runtime struct {
	// Log writes JSON lines to stderr at the configured level. It never blocks: lines that are not
	// read are dropped. Of repeated lines only some are written.
	Log *zap.Logger
	// Metrics is served at /metrics.
	Metrics *prometheus.Registry

	prefix string // of the names of its metrics
	level  zap.AtomicLevel
	lines  *logWriter // of Log
	ready  *readiness
	stack  *stack
	panics *prometheus.CounterVec
	debug  *http.ServeMux // of the admin listener, for local clients

	certificates *certificates

	mu        sync.Mutex
	listeners []*Listener
}

// newRuntime makes a Runtime. The prefix begins the names of its metrics.
func newRuntime(prefix, logLevel string, stderr io.Writer) *Runtime {
	level := zap.NewAtomicLevel()
	setLevel(level, logLevel)
	rt := &Runtime{
		Metrics: prometheus.NewRegistry(),
		prefix:  prefix,
		level:   level,
		ready:   newReadiness(),
		debug:   http.NewServeMux(),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "_panics_total",
			Help: "Recovered panics, by the server or client that had them.",
		}, []string{"server"}),
		certificates: newCertificates(prefix),
	}
	rt.Log, rt.lines = newLog(prefix, stderr, level, rt.Metrics)
	rt.stack = newStack(rt.Log)
	version, revision, goVersion := versionParts()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        prefix + "_build_info",
		Help:        "Version of the running build; always 1.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "goversion": goVersion},
	})
	build.Set(1)
	rt.Metrics.MustRegister(build, rt.panics, rt.certificates, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return rt
}

// Component is a named part of a running program. Run is nil if the component only
// needs to be closed, Stop is nil if it ends with its context.
type Component struct {
	// Name in the log.
	Name string
	// Run works until Stop is called or its context is cancelled, which happens when Stop has
	// returned. If it returns earlier, the program stops with exit code 1. A panic counts as an error.
	Run func(ctx context.Context) error
	// Stop ends the component. Its context ends before the drain time: then it must cancel all work
	// immediately.
	Stop func(ctx context.Context) error
}

// Add puts the component on top of the stack and starts its Run. The stack is stopped from the top.
func (rt *Runtime) Add(c Component) { rt.stack.add(c) }

// ReadyWhen adds a check to /readyz. It is called for each request and returns nil or the reason why
// the program is not ready, which is public.
func (rt *Runtime) ReadyWhen(name string, check func() error) { rt.ready.add(name, check) }

// Stopping returns a channel that is closed when the program receives a signal to stop. From then on
// /readyz is 503, and health checks must report "not serving". Requests are answered as before until
// Draining.
func (rt *Runtime) Stopping() <-chan struct{} { return rt.ready.stopping }

// Draining returns a channel that is closed when the drain begins, Settings.DrainDelay after Stopping.
// Long polls end then.
func (rt *Runtime) Draining() <-chan struct{} { return rt.ready.draining }

// HandleDebug adds a handler below /debug/ of the admin listener. Only clients on this machine reach it.
func (rt *Runtime) HandleDebug(pattern string, h http.Handler) { rt.debug.Handle(pattern, h) }

// Starting sets what /readyz answers until the start is over. It is public.
func (rt *Runtime) Starting(reason string) { rt.ready.reason.Store(&reason) }

// Panics returns the counter of recovered panics of a server or client, PREFIX_panics_total. Servers
// of ServeHTTP count their own.
func (rt *Runtime) Panics(server string) prometheus.Counter { return rt.panics.WithLabelValues(server) }

// Listen binds an address of the configuration's field. Connections are queued from now on, but a
// Unix socket gets its name only when Start has returned without an error. The frame closes the
// listener if the start fails.
func (rt *Runtime) Listen(field string, addr net.Addr) (*Listener, error) {
	l, err := Listen(context.Background(), field, addr)
	if err != nil {
		return nil, err
	}
	rt.mu.Lock()
	rt.listeners = append(rt.listeners, l)
	rt.mu.Unlock()
	rt.Log.Info("listening", zap.String("field", field), zap.Stringer("address", l.Addr()))
	return l, nil
}

// publish gives all Unix sockets their names.
func (rt *Runtime) publish() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for _, l := range rt.listeners {
		if err := l.Publish(); err != nil {
			return err
		}
	}
	return nil
}

// stop stops the stack within limit and closes the listeners that no component has closed.
func (rt *Runtime) stop(limit time.Duration) error {
	err := rt.stack.stop(limit)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for _, l := range rt.listeners {
		_ = l.Close() // closed by its server, or never used
	}
	return err
}

// ServeHTTP adds a component that serves HTTP on the listener, with TLS if conf is not nil and the
// listener is TCP, and with time limits that permit long polls. Its stop answers the requests of
// connections that clients have made, and waits for requests in flight.
func (rt *Runtime) ServeHTTP(name string, ln *Listener, conf *tls.Config, h http.Handler) {
	s := newDrainingServer(rt.newHTTPServer(name, h), ln, rt.Draining())
	var accepting net.Listener = ln
	if conf != nil && ln.Addr().Network() != "unix" {
		accepting = tls.NewListener(ln, conf)
	}
	rt.Add(Component{
		Name: name,
		Run:  func(context.Context) error { return s.run(accepting) },
		Stop: s.stop,
	})
}
