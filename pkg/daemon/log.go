package daemon

import (
	"fmt"
	"io"
	"log"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLog makes a logger that writes JSON lines at the level. It never blocks and omits repeated
// lines.
func newLog(name string, stderr io.Writer, level zap.AtomicLevel, metrics prometheus.Registerer) (*zap.Logger, *logWriter) {
	form := zap.NewProductionEncoderConfig()
	form.TimeKey = "time"
	form.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	form.EncodeDuration = zapcore.StringDurationEncoder
	lines := zapcore.NewJSONEncoder(form)
	out := newLogWriter(stderr, name, lines, metrics)
	core := limited{zapcore.NewCore(lines, out, level), newRepeats(name, metrics)}
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
