package daemon

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// maxPending is the size in bytes of the log lines that wait for the reader; as many again may
	// be being written. Larger costs memory while the log is not read; smaller drops lines when the
	// reader pauses.
	maxPending = 1 << 20
	// flushTimeout is the longest wait for the reader when the program exits. Larger delays the exit
	// while the log is not read; smaller drops the last lines of a slow reader.
	flushTimeout = 250 * time.Millisecond
	// busyWait is the time between two attempts to write to a non-blocking output that is not ready.
	// Larger delays lines; smaller costs processor time.
	busyWait = 10 * time.Millisecond
)

// logWriter writes log lines to an output that may block or fail. Write only appends to a bounded
// buffer. Lines beyond the bound, and lines that fail to be written, are dropped and counted, and a
// log line reports how many. Its goroutine runs only while lines wait. It is safe for concurrent use.
type logWriter struct {
	out     io.Writer
	notice  func(lost int) []byte // the line that reports dropped lines
	dropped prometheus.Counter

	mu      sync.Mutex // never held while writing
	pending []byte     // lines that wait
	lost    int        // dropped lines that are not reported yet
	idle    chan struct{}
}

// Write appends lines. It never blocks or fails.
func (w *logWriter) Write(lines []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending)+len(lines) > maxPending {
		w.lost++
		w.dropped.Inc()
		return len(lines), nil
	}
	w.pending = append(w.pending, lines...)
	if w.idle == nil {
		w.idle = make(chan struct{})
		go w.drain(w.idle)
	}
	return len(lines), nil
}

// Sync implements zapcore.WriteSyncer. It does nothing: flush waits.
func (w *logWriter) Sync() error { return nil }

// drain writes until no line waits.
func (w *logWriter) drain(idle chan struct{}) {
	var batch []byte
	for {
		var lost int
		if batch, lost = w.take(batch); len(batch) == 0 {
			close(idle)
			return
		}
		for line := range bytes.Lines(batch) {
			if !w.put(line) {
				lost++
				w.dropped.Inc()
			}
		}
		if lost > 0 && !w.put(w.notice(lost)) {
			w.mu.Lock()
			w.lost += lost
			w.mu.Unlock()
		}
	}
}

// take returns the lines that wait and the number of lines dropped after them, and leaves an empty
// buffer. If no line waits, the goroutine counts as ended.
func (w *logWriter) take(used []byte) (batch []byte, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		w.idle, w.pending = nil, nil // releases the memory of a burst
		return nil, 0
	}
	batch, lost = w.pending, w.lost
	w.pending, w.lost = used[:0], 0
	return batch, lost
}

// put writes one line and reports whether all of it was written. A non-blocking output may accept a
// part of a line at a time.
func (w *logWriter) put(line []byte) bool {
	for {
		n, err := w.out.Write(line)
		if line = line[n:]; !errors.Is(err, syscall.EAGAIN) {
			return err == nil
		}
		<-time.After(busyWait)
	}
}

// flush waits until all lines are written, but not longer than limit.
func (w *logWriter) flush(limit time.Duration) {
	w.mu.Lock()
	idle := w.idle
	w.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-time.After(limit):
	}
}

// newLogWriter makes a writer and registers its metric. The encoder formats the lines that report
// dropped lines.
func newLogWriter(out io.Writer, prefix string, lines zapcore.Encoder, metrics prometheus.Registerer) *logWriter {
	w := &logWriter{out: out, dropped: prometheus.NewCounter(prometheus.CounterOpts{
		Name: prefix + "_log_lines_dropped_total",
		Help: "Log lines dropped because the log was not read or not read fast enough.",
	})}
	metrics.MustRegister(w.dropped)
	w.notice = func(lost int) []byte {
		entry := zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "log lines dropped: the log was not read fast enough"}
		line, err := lines.EncodeEntry(entry, []zapcore.Field{zap.Int("dropped", lost)})
		if err != nil {
			return nil
		}
		defer line.Free()
		return bytes.Clone(line.Bytes())
	}
	return w
}
