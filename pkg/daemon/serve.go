package daemon

import (
	"context"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// runner runs a program from its start to its exit. Its fields belong to the goroutine of loop.
// Start, reload and stop run in separate goroutines and send what follows to events, so that a second
// signal is always handled.
type runner[C any] struct {
	program Program[C]
	path    string // of the configuration
	rt      *Runtime

	running  C        // the configuration of the start
	settings Settings // of the configuration that was loaded last
	apply    func(C) error

	loaded  content // of the file that was loaded or rejected last
	refusal string  // why it was rejected, "" if it was not
	changed bool    // the file must be loaded again

	starting, reloading, stopping bool // the goroutine is running
	hangUp                        bool // SIGHUP was received
	code                          int
	delay                         <-chan time.Time // ends with the drain delay; nil without one
	deadline                      <-chan time.Time // of the drain; nil until it begins
	drainEnd                      time.Time

	cancelStart context.CancelFunc
	started     chan error // receives the result of the start
	events      chan func()
	stopped     chan error

	lastReload, lastReloadAt prometheus.Gauge
}

// serve runs the program until it receives a signal, and returns the exit code.
func serve[C any](p Program[C], config string, proc process) int {
	file := contentOf(config)
	cfg, err := load(p, config)
	if err != nil {
		return exitCode(p, proc, err)
	}
	defer surviveSIGPIPE()()
	r := newRunner(p, config, cfg, proc.stderr)
	r.loaded = file
	defer zap.RedirectStdLog(r.rt.Log.Named("log"))() // which some libraries use
	return r.run(proc.signals)
}

func newRunner[C any](p Program[C], config string, cfg C, stderr io.Writer) *runner[C] {
	settings := p.Settings(cfg)
	r := &runner[C]{
		program: p, path: config, rt: newRuntime(p.Metrics, settings.LogLevel, stderr),
		running: cfg, settings: settings,
		starting: true,
		started:  make(chan error, 1),
		events:   make(chan func(), 8),
		stopped:  make(chan error, 1),
	}
	r.registerMetrics()
	return r
}

// run starts the program, serves until a signal to stop and returns the exit code.
func (r *runner[C]) run(signals <-chan os.Signal) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.cancelStart = cancel
	r.rt.Log.Info("starting", zap.String("program", r.program.Name), zap.String("version", Version()), zap.String("config", r.path))
	go watchFile(ctx, r.path, func(file content) { r.events <- func() { r.handleFile(file) } })
	go func() {
		var apply func(C) error
		err := guard(func() (err error) {
			apply, err = r.start(ctx, r.settings, r.running)
			return err
		})
		r.events <- func() { r.handleStart(apply, err) }
	}()
	code := r.loop(signals)
	r.rt.lines.flush(min(flushTimeout, max(time.Until(r.drainEnd), r.settings.Drain/20)))
	return code
}

func (r *runner[C]) start(ctx context.Context, settings Settings, cfg C) (apply func(C) error, err error) {
	if err := r.rt.startAdmin(settings.Admin); err != nil {
		return nil, err
	}
	if apply, err = r.program.Start(ctx, r.rt, cfg); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // stopped meanwhile: a process that runs already keeps its sockets
	}
	return apply, r.rt.publish()
}

// loop handles all events and returns the exit code.
func (r *runner[C]) loop(signals <-chan os.Signal) int {
	log := r.rt.Log
	for {
		select {
		case sig := <-signals:
			if sig == os.Signal(syscall.SIGHUP) {
				r.hangUp = true
				break
			}
			if isClosed(r.rt.ready.stopping) {
				log.Error("second signal: exiting immediately", zap.Stringer("signal", sig))
				return exitFailed
			}
			r.handleSignal(sig)
		case <-r.delay:
			r.beginDrain(exitOK)
		case c := <-r.rt.stack.exited:
			log.Error("component exited unexpectedly: shutting down", append(failure(c.err), zap.String("component", c.Name))...)
			r.beginDrain(exitFailed)
		case handle := <-r.events:
			handle()
		case err := <-r.stopped:
			if err != nil {
				r.code = exitFailed
			}
			log.Info("stopped", zap.Int("exit_code", r.code))
			return r.code
		case <-r.deadline:
			log.Error("drain timeout: a component does not stop, exiting immediately")
			return exitFailed
		}
		r.startDue()
	}
}

// startDue starts the stop or a reload if it is due and nothing else is running.
func (r *runner[C]) startDue() {
	switch {
	case r.starting, r.reloading, r.stopping:
	case r.deadline != nil:
		r.stopping = true
		// Before the deadline, which is only for a component that ignores its limits.
		limit := r.settings.Drain * 90 / 100
		go func() { r.stopped <- r.rt.stop(limit) }()
	case !isClosed(r.rt.ready.stopping) && (r.hangUp || r.changed):
		signalled := r.hangUp
		r.hangUp, r.changed, r.reloading = false, false, true
		go func() {
			result := r.reload(signalled)
			r.events <- func() { r.handleReload(result) }
		}()
	}
}

// handleSignal begins the stop. Only SIGTERM has the delay, for clients that have not yet noticed
// that the program is not ready: SIGINT comes from a person.
func (r *runner[C]) handleSignal(sig os.Signal) {
	fields := []zap.Field{zap.Stringer("signal", sig), zap.Duration("drain", r.settings.Drain)}
	if sig != os.Signal(syscall.SIGTERM) || r.starting || r.settings.DrainDelay <= 0 {
		r.rt.Log.Info("stopping", fields...)
		r.beginDrain(exitOK)
		return
	}
	r.rt.Log.Info("stopping", append(fields, zap.Duration("drain_delay", r.settings.DrainDelay))...)
	close(r.rt.ready.stopping)
	r.delay = time.After(r.settings.DrainDelay)
}

func (r *runner[C]) handleStart(apply func(C) error, err error) {
	r.starting = false
	r.started <- err
	switch {
	case err == nil && r.deadline == nil:
		r.apply = apply
		close(r.rt.ready.started)
		r.rt.Log.Info("started")
	case err == nil:
	case r.deadline != nil:
		r.rt.Log.Info("stopped during startup", failure(err)...)
	default:
		r.rt.Log.Error("start failed", failure(err)...)
		r.beginDrain(exitFailed)
	}
}

// beginDrain ends readiness and sets the deadline of the stop, which leaves a twentieth of the
// drain time for the log.
func (r *runner[C]) beginDrain(code int) {
	r.code = max(r.code, code)
	if r.deadline != nil {
		return
	}
	r.delay = nil
	r.drainEnd = time.Now().Add(r.settings.Drain)
	r.deadline = time.After(r.settings.Drain * 95 / 100)
	if !isClosed(r.rt.ready.stopping) {
		close(r.rt.ready.stopping)
	}
	close(r.rt.ready.draining)
	r.cancelStart()
}
