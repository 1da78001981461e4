package keycache

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// maxPendingLines bounds the log lines that wait for a log writer. Smaller drops lines in a
	// burst; larger keeps more memory while the writer blocks.
	maxPendingLines = 256
	// flushWait is how long close waits for pending lines. Smaller may lose the last lines of
	// a stop; larger delays a stop while the writer blocks.
	flushWait = 500 * time.Millisecond
)

// journal writes log lines in order, in a goroutine that runs only while lines are pending.
// So a log writer that blocks delays no check and no poll. Its callers may hold any lock.
type journal struct {
	log     *zap.Logger
	dropped prometheus.Counter

	mu      sync.Mutex
	pending []line
	drained chan struct{} // closed when nothing is pending any more; nil if nothing is
}

type line struct {
	entry  *zapcore.CheckedEntry
	fields []zap.Field
}

func (j *journal) write(level zapcore.Level, message string, fields ...zap.Field) {
	entry := j.log.Check(level, message) // has the time of now
	if entry == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.pending) >= maxPendingLines {
		j.dropped.Inc()
		return
	}
	j.pending = append(j.pending, line{entry, fields})
	if j.drained == nil {
		j.drained = make(chan struct{})
		go j.drain()
	}
}

func (j *journal) info(message string, fields ...zap.Field) {
	j.write(zap.InfoLevel, message, fields...)
}

func (j *journal) warn(message string, fields ...zap.Field) {
	j.write(zap.WarnLevel, message, fields...)
}

func (j *journal) error(message string, fields ...zap.Field) {
	j.write(zap.ErrorLevel, message, fields...)
}

func (j *journal) drain() {
	for {
		j.mu.Lock()
		if len(j.pending) == 0 {
			close(j.drained)
			j.drained = nil
			j.mu.Unlock()
			return
		}
		next := j.pending[0]
		j.pending = j.pending[1:]
		j.mu.Unlock()
		next.entry.Write(next.fields...)
	}
}

// close waits until the pending lines are written, for flushWait at most.
func (j *journal) close() {
	j.mu.Lock()
	drained := j.drained
	j.mu.Unlock()
	if drained == nil {
		return
	}
	timer := time.NewTimer(flushWait)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
}
