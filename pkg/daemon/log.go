package daemon

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLog makes a logger of JSON lines, of which level says how many are written.
func newLog(w io.Writer, level zap.AtomicLevel) *zap.Logger {
	form := zap.NewProductionEncoderConfig()
	form.TimeKey = "time"
	form.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	form.EncodeDuration = zapcore.StringDurationEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(form), zapcore.Lock(zapcore.AddSync(w)), level))
}

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
