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
	// maxPending bounds the log lines that wait for the reader, in bytes; as many again
	// may be on their way to it. Larger costs memory while nobody reads, smaller loses
	// lines when the reader pauses.
	maxPending = 1 << 20
	// flushTimeout bounds the wait for the reader when the program exits. Larger delays
	// the exit while nobody reads, smaller loses the last lines of a slow reader.
	flushTimeout = 250 * time.Millisecond
	// busyWait is the time between two attempts to write to a reader that is not ready,
	// where the output does not block. Larger delays lines, smaller costs processor time.
	busyWait = 10 * time.Millisecond
)

// logWriter writes log lines to an output that may block or fail: Write only appends
// to a bounded buffer. Lines beyond the bound, and lines that the output refuses, are
// dropped and counted, and a line of the log reports how many. Its goroutine lives
// only as long as lines wait. It is safe for concurrent use.
type logWriter struct {
	out     io.Writer
	notice  func(lost int) []byte // the line that reports dropped lines
	dropped prometheus.Counter

	mu      sync.Mutex // never held while writing
	pending []byte     // lines that wait
	lost    int        // dropped lines that no line has reported yet
	idle    chan struct{}
}

// Write takes one line, or several, and never blocks or fails.
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

// take returns the lines that wait, with the number of lines that were dropped after
// them, and leaves an empty buffer. If none waits, the goroutine counts as ended.
func (w *logWriter) take(used []byte) (batch []byte, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		w.idle, w.pending = nil, nil // a burst's memory is not kept
		return nil, 0
	}
	batch, lost = w.pending, w.lost
	w.pending, w.lost = used[:0], 0
	return batch, lost
}

// put writes one line and reports whether the output took it whole. An output that
// does not block may take a part of it.
func (w *logWriter) put(line []byte) bool {
	for {
		n, err := w.out.Write(line)
		if line = line[n:]; !errors.Is(err, syscall.EAGAIN) {
			return err == nil
		}
		<-time.After(busyWait)
	}
}

// flush waits until all lines are written, at most for limit.
func (w *logWriter) flush(limit time.Duration) {
	w.mu.Lock()
	idle := w.idle
	w.mu.Unlock()
	if idle == nil {
		return
	}
	over := time.NewTimer(limit)
	defer over.Stop()
	select {
	case <-idle:
	case <-over.C:
	}
}

// newLogWriter makes the writer with its metric. Lines that report dropped lines have
// the encoder's form.
func newLogWriter(out io.Writer, name string, lines zapcore.Encoder, metrics prometheus.Registerer) *logWriter {
	w := &logWriter{out: out, dropped: prometheus.NewCounter(prometheus.CounterOpts{
		Name: name + "_log_lines_dropped_total",
		Help: "Log lines dropped because the reader of the log was gone or did not keep up.",
	})}
	metrics.MustRegister(w.dropped)
	w.notice = func(lost int) []byte {
		entry := zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "log lines dropped: the reader was gone or did not keep up"}
		line, err := lines.EncodeEntry(entry, []zapcore.Field{zap.Int("dropped", lost)})
		if err != nil {
			return nil
		}
		defer line.Free()
		return bytes.Clone(line.Bytes())
	}
	return w
}
