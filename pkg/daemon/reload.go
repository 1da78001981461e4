package daemon

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// takeUp loads the configuration anew and hands it to the program. It returns what
// was taken up, nil if a mistake or the program itself has refused it.
func (l *life[C]) takeUp() *C {
	log := l.rt.Log
	cfg, err := l.program.Load(l.path)
	if err != nil {
		log.Error("the configuration has mistakes and changes nothing", mistakes(err))
		return nil
	}
	if fields := l.program.NeedsRestart(l.running, cfg); len(fields) > 0 {
		log.Warn("changed fields that only a restart takes up", zap.Strings("fields", fields))
	}
	err = guard(func() error {
		if l.reload == nil {
			return fmt.Errorf("%s takes up nothing without a restart", l.program.Name)
		}
		return l.reload(cfg)
	})
	if err != nil {
		log.Error("the configuration cannot be taken up", failure(err)...)
		return nil
	}
	return &cfg
}

func (l *life[C]) hasReloaded(cfg *C) {
	l.reloading = false
	if cfg == nil {
		l.lastReload.Set(0)
		return
	}
	settings := l.program.Settings(*cfg)
	l.drain = settings.Drain
	setLevel(l.rt.level, settings.LogLevel)
	l.lastReload.Set(1)
	l.lastReloadAt.SetToCurrentTime()
	l.rt.Log.Info("the configuration has been taken up")
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
