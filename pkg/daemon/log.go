package daemon

import (
	"fmt"
	"io"
	"log"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLog makes a logger that writes JSON lines at the level. It never blocks and omits repeated
// lines. The prefix begins the names of its metrics.
func newLog(prefix string, stderr io.Writer, level zap.AtomicLevel, metrics prometheus.Registerer) (*zap.Logger, *logWriter) {
	form := zap.NewProductionEncoderConfig()
	form.TimeKey = "time"
	form.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	form.EncodeDuration = zapcore.StringDurationEncoder
	lines := zapcore.NewJSONEncoder(form)
	out := newLogWriter(stderr, prefix, lines, metrics)
	core := limited{zapcore.NewCore(lines, out, level), newRepeats(prefix, metrics)}
	return zap.New(core, zap.ErrorOutput(out)), out
}

// libraryLog returns a logger for a library that writes lines of text. They are warnings, and all
// lines under one name count as the same message.
func (rt *Runtime) libraryLog(name string) *log.Logger {
	std, err := zap.NewStdLogAt(rt.Log.Named(name), zapcore.WarnLevel)
	if err != nil {
		panic(err) // the level is a constant
	}
	return std
}

// setLevel sets the level by its name. An unknown name changes nothing.
func setLevel(level zap.AtomicLevel, name string) {
	if l, err := zapcore.ParseLevel(name); err == nil {
		level.SetLevel(l)
	}
}

// panicked is the error of a panic. It has the type and the place of the panic, but the text only if
// it is a runtime error: other texts might hold a secret.
type panicked struct {
	what  string
	stack string
}

func (p *panicked) Error() string { return "panic: " + p.what }

func newPanicked(value any) *panicked {
	what := fmt.Sprintf("%T", value)
	if e, ok := value.(runtime.Error); ok {
		what = e.Error()
	}
	return &panicked{what: what, stack: string(debug.Stack())}
}

// guard calls f and returns a panic as an error.
func guard(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = newPanicked(value)
		}
	}()
	return f()
}

const (
	// At most repeatLimit lines of one message are written in repeatWindow. A smaller limit hides
	// details of a fault; a larger one floods the log.
	repeatWindow = 10 * time.Second
	repeatLimit  = 10
	// maxMessages is the number of messages that are counted; beyond it, counting starts over.
	// Larger costs memory; smaller than the number of a program's messages weakens the limit.
	maxMessages = 4096
)

// limited is a zapcore.Core that omits repeated lines. Lines are repeated if they have the same level
// and message, or in a named logger, which a library uses, the same level and name, because messages
// of libraries contain addresses. All lines at debug level are written. The field left_out of the
// next line of a message is the number of omitted lines.
type limited struct {
	zapcore.Core
	repeats *repeats
}

// With implements zapcore.Core.
func (l limited) With(fields []zapcore.Field) zapcore.Core {
	return limited{l.Core.With(fields), l.repeats}
}

// Check implements zapcore.Core.
func (l limited) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !l.Enabled(entry.Level) {
		return checked
	}
	return checked.AddCore(entry, l)
}

// Write implements zapcore.Core.
func (l limited) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	if entry.Level > zapcore.DebugLevel {
		write, leftOut := l.repeats.count(entry)
		if !write {
			return nil
		}
		if leftOut > 0 {
			fields = append(fields[:len(fields):len(fields)], zap.Int("left_out", leftOut))
		}
	}
	return l.Core.Write(entry, fields)
}

// repeats counts lines by message. It is safe for concurrent use.
type repeats struct {
	leftOut prometheus.Counter

	mu       sync.Mutex
	messages map[message]*window
}

// message identifies repeated lines.
type message struct {
	level zapcore.Level
	text  string
}

// window counts the lines of a message since it began.
type window struct {
	began         time.Time
	lines, missed int
}

// count counts a line. It reports whether to write it, and how many lines of its message were omitted
// since the last one that was written.
func (r *repeats) count(entry zapcore.Entry) (write bool, leftOut int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := message{entry.Level, entry.Message}
	if entry.LoggerName != "" {
		key.text = entry.LoggerName
	}
	w := r.messages[key]
	if w == nil {
		if len(r.messages) >= maxMessages {
			clear(r.messages)
		}
		w = &window{began: entry.Time}
		r.messages[key] = w
	}
	if entry.Time.Sub(w.began) >= repeatWindow {
		w.began, w.lines = entry.Time, 0
	}
	if w.lines++; w.lines > repeatLimit {
		w.missed++
		r.leftOut.Inc()
		return false, 0
	}
	leftOut, w.missed = w.missed, 0
	return true, leftOut
}

func newRepeats(prefix string, metrics prometheus.Registerer) *repeats {
	r := &repeats{messages: map[message]*window{}, leftOut: prometheus.NewCounter(prometheus.CounterOpts{
		Name: prefix + "_log_lines_repeated_total",
		Help: "Log lines omitted because their message was repeated too often.",
	})}
	metrics.MustRegister(r.leftOut)
	return r
}
