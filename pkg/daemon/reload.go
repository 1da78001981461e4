package daemon

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// reloadResult is what a reload has done.
type reloadResult[C any] struct {
	file content // before it was read
	cfg  *C      // what was taken up; nil if it was refused
	text string  // of the refusal
}

// takeUp loads the configuration anew and hands it to the program. A refusal that is
// the same as the one before is logged only if the reload was asked for by a signal.
func (l *life[C]) takeUp(signalled bool) reloadResult[C] {
	log := l.rt.Log
	result := reloadResult[C]{file: contentOf(l.path)}
	refused := func(message string, err error, fields ...zap.Field) reloadResult[C] {
		result.text = message + err.Error()
		if signalled || result.file != l.loaded || result.text != l.refused {
			log.Error(message, fields...)
		}
		return result
	}
	cfg, err := l.program.Load(l.path)
	if err != nil {
		return refused("the configuration has mistakes and changes nothing", err, mistakes(err))
	}
	err = guard(func() error {
		if l.reload == nil {
			return fmt.Errorf("%s takes up nothing without a restart", l.program.Name)
		}
		return l.reload(cfg)
	})
	if err != nil {
		return refused("the configuration cannot be taken up", err, failure(err)...)
	}
	if fields := l.program.NeedsRestart(l.running, cfg); len(fields) > 0 {
		log.Warn("changed fields that only a restart takes up", zap.Strings("fields", fields))
	}
	result.cfg = &cfg
	return result
}

func (l *life[C]) hasReloaded(result reloadResult[C]) {
	l.reloading = false
	l.loaded, l.refused = result.file, result.text
	if result.cfg == nil {
		l.lastReload.Set(0)
		return
	}
	l.settings = l.program.Settings(*result.cfg)
	setLevel(l.rt.level, l.settings.LogLevel)
	l.lastReload.Set(1)
	l.lastReloadAt.SetToCurrentTime()
	l.rt.Log.Info("the configuration has been taken up")
}

// hasFound handles a look at the configuration file: other content than what was loaded
// last is reloaded, and so is content that was refused, because a file that it names
// may be there now.
func (l *life[C]) hasFound(file content) {
	l.changed = file != l.loaded || l.refused != ""
}

// reloadMetrics registers the two metrics by which one sees that a fleet runs with
// the configuration that it was given.
func (l *life[C]) reloadMetrics() {
	l.lastReload = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: l.program.Name + "_config_last_reload_successful",
		Help: "Whether the last configuration that was loaded has been taken up (1) or refused (0).",
	})
	l.lastReloadAt = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: l.program.Name + "_config_last_reload_success_timestamp_seconds",
		Help: "When a configuration was last taken up, in seconds since 1970.",
	})
	l.lastReload.Set(1)
	l.lastReloadAt.SetToCurrentTime()
	l.rt.Metrics.MustRegister(l.lastReload, l.lastReloadAt)
}
