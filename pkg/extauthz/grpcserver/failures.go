package grpcserver

import (
	"fmt"
	"runtime"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// failures counts and logs messages that were not decided. Clients can cause these at any rate, so
// the log lines of each kind are sampled.
type failures struct {
	metrics                     *extauthz.Metrics
	log                         *zap.Logger
	panics, malformed, tooLarge rate.Sometimes
}

// The first linesFirst lines of each kind are logged, then one in each period of linesEvery. More
// lines cost log storage in an attack; fewer hide that there are several causes.
const (
	linesFirst = 3
	linesEvery = 10 * time.Second
)

func newFailures(metrics *extauthz.Metrics, log *zap.Logger) *failures {
	sampled := func() rate.Sometimes { return rate.Sometimes{First: linesFirst, Interval: linesEvery} }
	return &failures{metrics: metrics, log: log, panics: sampled(), malformed: sampled(), tooLarge: sampled()}
}

// due reports whether a line may be logged. The caller logs it, because s.Do holds a lock.
func due(s *rate.Sometimes) (now bool) {
	s.Do(func() { now = true })
	return now
}

// panicked records a recovered panic. The deferred function must call it, so that the stack is still
// that of the panic. It logs the value only if it is a runtime error, because any other may hold
// client data. The stack is without arguments, which may hold parts of a credential.
func (f *failures) panicked(value any) {
	f.metrics.Panics.Inc()
	if !due(&f.panics) {
		return
	}
	what := fmt.Sprintf("%T", value)
	if err, ok := value.(runtime.Error); ok {
		what = err.Error()
	}
	f.log.Error("check panicked: answered as unavailable", zap.String("panic", what), zap.Stack("stack"))
}

// unreadable records the error of a message that is not a valid CheckRequest.
func (f *failures) unreadable(err error) {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		f.metrics.TooLarge.Inc()
		f.warn(&f.tooLarge, "check message is too large: rejected", zap.Int("max_bytes", maxMessage))
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
		// The client ended the stream.
	default:
		f.metrics.Malformed.Inc()
		f.warn(&f.malformed, "check message is malformed: rejected")
	}
}

func (f *failures) warn(s *rate.Sometimes, message string, fields ...zap.Field) {
	if due(s) {
		f.log.Warn(message, fields...)
	}
}
