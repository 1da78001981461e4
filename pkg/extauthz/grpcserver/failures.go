package grpcserver

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// failures counts and logs what kept a message from being decided. Clients can cause such
// messages at any rate, so the log lines of each kind are sampled; the metrics have the number.
type failures struct {
	metrics                     *extauthz.Metrics
	log                         *zap.Logger
	panics, malformed, tooLarge rate.Sometimes
}

// linesFirst and linesEvery bound the log: so many lines of each kind, then one in each period.
// More lines cost log storage in an attack; fewer hide that there are several causes.
const (
	linesFirst = 3
	linesEvery = 10 * time.Second
)

func newFailures(metrics *extauthz.Metrics, log *zap.Logger) *failures {
	sampled := func() rate.Sometimes { return rate.Sometimes{First: linesFirst, Interval: linesEvery} }
	return &failures{metrics: metrics, log: log, panics: sampled(), malformed: sampled(), tooLarge: sampled()}
}

// due reports whether a line may be logged. The caller logs it, because s holds a lock.
func due(s *rate.Sometimes) (now bool) {
	s.Do(func() { now = true })
	return now
}

// panicked notes the value of a recovered panic. It must be called while the panic is recovered,
// by the deferred function. The log has the value only if it is an error of the runtime, because
// any other may hold what a client sent. It has the active functions without their arguments,
// because these may be parts of a credential.
func (f *failures) panicked(value any) {
	f.metrics.Panicked()
	if !due(&f.panics) {
		return
	}
	what := fmt.Sprintf("%T", value)
	if err, ok := value.(runtime.Error); ok {
		what = err.Error()
	}
	f.log.Error("a check panicked and was answered as unavailable", zap.String("panic", what), zap.Strings("place", place()))
}

// unreadable notes the error of a message that could not be read as a check.
func (f *failures) unreadable(err error) {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		f.metrics.Undecodable(extauthz.TooLarge)
		f.warn(&f.tooLarge, "a check message was refused: it is too large", zap.Int("max_bytes", maxMessage))
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
		// The client ended the stream.
	default:
		f.metrics.Undecodable(extauthz.Malformed)
		f.warn(&f.malformed, "a check message was refused: it cannot be read")
	}
}

func (f *failures) warn(s *rate.Sometimes, message string, fields ...zap.Field) {
	if due(s) {
		f.log.Warn(message, fields...)
	}
}

// maxPlace is how many functions a log line of a panic names. More make longer lines; fewer may
// leave out where the call came from.
const maxPlace = 12

// place returns the functions that were active when the panic began that is being recovered,
// innermost first, each with its file and line.
func place() (list []string) {
	var callers [64]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(1, callers[:])])
	panicking := false
	for len(list) < maxPlace {
		frame, more := frames.Next()
		switch {
		case frame.Function == "runtime.gopanic":
			panicking = true
		case panicking && !strings.HasPrefix(frame.Function, "runtime."):
			list = append(list, fmt.Sprintf("%s %s:%d", frame.Function, frame.File, frame.Line))
		}
		if !more {
			break
		}
	}
	return list
}
