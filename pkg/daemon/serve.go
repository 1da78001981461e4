package daemon

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// life is a program from its start to its end. Its fields belong to the goroutine of
// loop; starting, reloading and stopping run in goroutines of their own and report
// through the channels, so that a second signal is always heard.
type life[C any] struct {
	program Program[C]
	path    string // of the configuration
	rt      *Runtime

	running  C        // what was started with
	settings Settings // of the configuration that was taken up last
	reload   func(C) error

	loaded  content // of the file that was taken up or refused last
	refused string  // why it was refused, "" if it was not
	changed bool    // the file has to be loaded again

	starting, reloading, hangUp bool
	code                        int
	delay                       <-chan time.Time // until the drain begins; nil without a delay
	deadline                    <-chan time.Time // of the drain; nil until it begins
	ends                        time.Time        // when the drain time is over
	stopping                    bool             // the stack is being stopped

	cancel   context.CancelFunc // tells the start that it is over
	started  chan startResult[C]
	found    chan content
	reloaded chan reloadResult[C]
	stopped  chan error

	lastReload, lastReloadAt prometheus.Gauge
}

type startResult[C any] struct {
	reload func(C) error
	err    error
}

// serve runs the program until it is told to stop.
func serve[C any](p Program[C], config string, proc process) int {
	file := contentOf(config)
	cfg, ok := load(p, config, proc)
	if !ok {
		return exitUsage
	}
	defer surviveSIGPIPE()()
	settings := p.Settings(cfg)
	rt := newRuntime(p.Name, settings.LogLevel, proc.stderr)
	defer redirectStdLog(rt)()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l := &life[C]{
		program: p, path: config, rt: rt,
		running: cfg, settings: settings, loaded: file,
		starting: true,
		cancel:   cancel,
		started:  make(chan startResult[C], 1),
		found:    make(chan content),
		reloaded: make(chan reloadResult[C], 1),
		stopped:  make(chan error, 1),
	}
	l.reloadMetrics()
	rt.Log.Info("starting", zap.String("program", p.Name), zap.String("version", Version()), zap.String("config", config))
	go watchFile(ctx, config, l.found)
	go func() {
		var result startResult[C]
		result.err = guard(func() (err error) {
			result.reload, err = l.start(ctx, settings, cfg)
			return err
		})
		l.started <- result
	}()
	code := l.loop(proc.signals)
	rt.lines.flush(min(flushTimeout, max(time.Until(l.ends), l.settings.Drain/20)))
	return code
}

func (l *life[C]) start(ctx context.Context, settings Settings, cfg C) (reload func(C) error, err error) {
	if err := l.rt.startAdmin(settings.Admin); err != nil {
		return nil, err
	}
	if reload, err = l.program.Start(ctx, l.rt, cfg); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // told to stop: whoever runs already keeps his sockets
	}
	return reload, l.rt.publish()
}

// loop hears of everything that happens, and returns the exit code.
func (l *life[C]) loop(signals <-chan os.Signal) int {
	for {
		select {
		case sig := <-signals:
			if sig == os.Signal(syscall.SIGHUP) {
				l.hangUp = true
				break
			}
			if isClosed(l.rt.ready.stopping) {
				l.rt.Log.Error("a second signal: stopping at once", zap.Stringer("signal", sig))
				return exitFailed
			}
			l.hasSignalled(sig)
		case <-l.delay:
			l.end(exitOK)
		case result := <-l.started:
			l.hasStarted(result)
		case p := <-l.rt.stack.died:
			l.rt.Log.Error("a component has ended by itself, so the program stops",
				append(failure(p.err), zap.String("component", p.Name))...)
			l.end(exitFailed)
		case file := <-l.found:
			l.hasFound(file)
		case result := <-l.reloaded:
			l.hasReloaded(result)
		case err := <-l.stopped:
			if err != nil {
				l.code = exitFailed
			}
			l.rt.Log.Info("stopped", zap.Int("exit_code", l.code))
			return l.code
		case <-l.deadline:
			l.rt.Log.Error("the drain time is over and something still hangs: stopping at once")
			return exitFailed
		}
		l.next()
	}
}

// next begins what is due and can be begun.
func (l *life[C]) next() {
	switch busy := l.starting || l.reloading; {
	case busy:
	case l.deadline != nil && !l.stopping:
		l.stopping = true
		// A little less than the deadline, so that it is only met if a component does not keep to its limits.
		limit := l.settings.Drain * 90 / 100
		go func() { l.stopped <- l.rt.stop(limit) }()
	case !isClosed(l.rt.ready.stopping) && (l.hangUp || l.changed):
		signalled := l.hangUp
		l.hangUp, l.changed, l.reloading = false, false, true
		go func() { l.reloaded <- l.takeUp(signalled) }()
	}
}

// hasSignalled begins the stop. Only SIGTERM has the delay, which is for programs that
// still have to notice that this one is not ready: SIGINT comes from a person.
func (l *life[C]) hasSignalled(sig os.Signal) {
	fields := []zap.Field{zap.Stringer("signal", sig), zap.Duration("drain", l.settings.Drain)}
	if sig != os.Signal(syscall.SIGTERM) || l.starting || l.settings.DrainDelay <= 0 {
		l.rt.Log.Info("stopping", fields...)
		l.end(exitOK)
		return
	}
	l.rt.Log.Info("stopping", append(fields, zap.Duration("drain_delay", l.settings.DrainDelay))...)
	close(l.rt.ready.stopping)
	l.delay = time.After(l.settings.DrainDelay)
}

func (l *life[C]) hasStarted(result startResult[C]) {
	l.starting = false
	switch {
	case result.err == nil && l.deadline == nil:
		l.reload = result.reload
		close(l.rt.ready.started)
		l.rt.Log.Info("started")
	case result.err == nil:
	case l.deadline != nil:
		l.rt.Log.Info("told to stop before it had started", failure(result.err)...)
	default:
		l.rt.Log.Error("cannot start", failure(result.err)...)
		l.end(exitFailed)
	}
}

// end begins the drain: not ready any more, and a limit for all that follows, which
// leaves a twentieth of the drain time to write the log.
func (l *life[C]) end(code int) {
	l.code = max(l.code, code)
	if l.deadline != nil {
		return
	}
	l.delay = nil
	l.ends = time.Now().Add(l.settings.Drain)
	l.deadline = time.After(l.settings.Drain * 95 / 100)
	if !isClosed(l.rt.ready.stopping) {
		close(l.rt.ready.stopping)
	}
	close(l.rt.ready.draining)
	l.cancel()
}
