package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

type reloadResult[C any] struct {
	file    content // of the configuration, before it was loaded
	cfg     *C      // the applied configuration; nil if it was rejected
	refusal string
}

// reload loads the configuration again and applies it. If it is rejected for the same reason as
// before, the log reports it again only after a signal.
func (r *runner[C]) reload(signalled bool) reloadResult[C] {
	log := r.rt.Log
	result := reloadResult[C]{file: contentOf(r.path)}
	reject := func(message string, err error, fields ...zap.Field) reloadResult[C] {
		result.refusal = message + err.Error()
		if signalled || result.file != r.loaded || result.refusal != r.refusal {
			log.Error(message, fields...)
		}
		return result
	}
	var cfg C
	err := guard(func() (err error) {
		cfg, err = r.program.Load(r.path)
		return err
	})
	if err != nil {
		return reject("reload rejected: invalid configuration", err, zap.Strings("mistakes", strings.Split(err.Error(), "\n")))
	}
	err = guard(func() error {
		if r.apply == nil {
			return fmt.Errorf("%s cannot reload its configuration", r.program.Name)
		}
		return r.apply(cfg)
	})
	if err != nil {
		return reject("reload failed: the previous configuration stays in use", err, failure(err)...)
	}
	if fields := r.program.NeedsRestart(r.running, cfg); len(fields) > 0 {
		log.Warn("changed fields require a restart", zap.Strings("fields", fields))
	}
	result.cfg = &cfg
	return result
}

func (r *runner[C]) handleReload(result reloadResult[C]) {
	r.reloading = false
	r.loaded, r.refusal = result.file, result.refusal
	if result.cfg == nil {
		r.lastReload.Set(0)
		return
	}
	r.settings = r.program.Settings(*result.cfg)
	setLevel(r.rt.level, r.settings.LogLevel)
	r.lastReload.Set(1)
	r.lastReloadAt.SetToCurrentTime()
	r.rt.Log.Info("configuration reloaded")
}

// handleFile handles a look at the configuration file. Other content than what was loaded last is
// loaded, and so is rejected content, because a file that it names may exist now.
func (r *runner[C]) handleFile(file content) {
	r.changed = file != r.loaded || r.refusal != ""
}

// registerMetrics registers the metrics that show whether the program runs with the configuration
// in its file.
func (r *runner[C]) registerMetrics() {
	r.lastReload = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: r.program.Metrics + "_config_last_reload_successful",
		Help: "Whether the last configuration reload succeeded (1) or was rejected (0).",
	})
	r.lastReloadAt = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: r.program.Metrics + "_config_last_reload_success_timestamp_seconds",
		Help: "Time of the last successful configuration load, in seconds since 1970.",
	})
	r.lastReload.Set(1)
	r.lastReloadAt.SetToCurrentTime()
	r.rt.Metrics.MustRegister(r.lastReload, r.lastReloadAt)
}

const (
	// watchInterval is the time between two looks at the configuration file. Larger delays a
	// reload; smaller costs file system calls.
	watchInterval = 500 * time.Millisecond
	// maxWatched is how much of the configuration file is read, in bytes. Smaller than the largest
	// file that a Load accepts misses changes; larger costs time if a wrong file is given.
	maxWatched = 2 << 20
)

// content is the SHA-256 of a configuration file, zero for a file that cannot be read or is not a
// regular file.
type content [sha256.Size]byte

// contentOf reads the file. A pipe is not read: it could not be read again by Load.
func contentOf(path string) content {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return content{}
	}
	f, err := os.Open(path)
	if err != nil {
		return content{}
	}
	defer func() { _ = f.Close() }() // read only
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, maxWatched)); err != nil {
		return content{}
	}
	return content(sum.Sum(nil))
}

// watchFile calls report with the content of the file every watchInterval, until ctx ends. It skips
// a file that has changed since the last look, because it may be half-written, and one that cannot
// be read, because it may be about to be replaced.
//
// It reads the file by name, which detects a write in place, a rename over the file and the swap of
// the folder behind a ConfigMap's symbolic link, also on network file systems, where inotify reports
// nothing.
func watchFile(ctx context.Context, path string, report func(content)) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for before := (content{}); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := contentOf(path)
		if now == before && now != (content{}) {
			report(now)
		}
		before = now
	}
}
