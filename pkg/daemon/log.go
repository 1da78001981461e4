package daemon

import (
	"fmt"
	"io"
	"log"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLog makes a logger of JSON lines, of which level says how many are written. The
// logger never blocks, and it leaves out repeated lines; out counts what it loses.
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

// libraryLog is Log for a library that writes lines of text, as warnings. All lines
// under one name count as the same message.
func (rt *Runtime) libraryLog(name string) *log.Logger {
	std, err := zap.NewStdLogAt(rt.Log.Named(name), zapcore.WarnLevel)
	if err != nil {
		panic(err) // the level is a constant
	}
	return std
}

// redirectStdLog has lines of package log's default logger, which some libraries write
// to, go to Log until the returned function is called.
func redirectStdLog(rt *Runtime) (restore func()) { return zap.RedirectStdLog(rt.Log.Named("log")) }

// setLevel sets the level by its name; one that is unknown changes nothing.
func setLevel(level zap.AtomicLevel, name string) {
	if l, err := zapcore.ParseLevel(name); err == nil {
		level.SetLevel(l)
	}
}

// mistakes is the log field of an error with one line for each mistake.
func mistakes(err error) zap.Field { return zap.Strings("mistakes", strings.Split(err.Error(), "\n")) }

// panicked is a panic as an error. It has the panic's type and place, and its text
// only if that is the runtime's own: a program's might hold a secret.
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

// guard calls f and makes an error of a panic.
func guard(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = newPanicked(value)
		}
	}()
	return f()
}
