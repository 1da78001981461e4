package envoymodule

import (
	"context"
	"sync"
	"time"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// filter checks one stream. Envoy calls it in one worker thread. While a look-up is running, request
// and outcome belong to its goroutine.
type filter struct {
	shared.EmptyHttpFilter
	factory *factory
	handle  Stream

	request extauthz.Request
	first   [5]string // the first value of each of its headers, so that they need no memory of their own
	wasRead bool      // the request is complete
	outcome extauthz.Outcome
	replied bool // a local reply was sent

	cancel context.CancelFunc // of the look-up; nil without one
	mu     sync.Mutex         // orders the end of the stream and the look-up's return
	ended  bool               // guarded by mu
}

// OnRequestHeaders implements shared.HttpFilter: it decides the check, or stops the stream and starts
// the look-up.
func (f *filter) OnRequestHeaders(headers shared.HeaderMap, _ bool) (status shared.HeadersStatus) {
	defer func() {
		if value := recover(); value != nil {
			f.factory.panicked(value)
			status = statusOf(f.fail(headers))
		}
	}()
	f.request.Arrived = time.Now()
	f.read(headers)
	f.wasRead = true
	var decided bool
	f.outcome, decided = f.factory.Checker.Begin(&f.request)
	if !decided && f.wait() {
		return shared.HeadersStatusStopAllAndWatermark
	}
	return statusOf(f.apply(headers))
}

func statusOf(allowed bool) shared.HeadersStatus {
	if allowed {
		return shared.HeadersStatusContinue
	}
	return shared.HeadersStatusStopAllAndWatermark
}

// wait starts the look-up of a check. It returns false if too many streams wait already.
func (f *filter) wait() (started bool) {
	defer func() {
		if !started {
			f.factory.waiting.Add(-1)
		}
	}()
	if f.factory.waiting.Add(1) > maxWaiting {
		return false
	}
	f.own()
	scheduler := f.handle.GetScheduler()
	ctx, cancel := context.WithDeadline(context.Background(), f.request.Arrived.Add(f.factory.Timeout()))
	f.cancel = cancel
	go func() {
		defer f.factory.waiting.Add(-1)
		defer cancel()
		defer f.factory.recovered() // a stream that could not be scheduled stays stopped
		f.lookUp(ctx)
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.ended { // the worker of an ended stream may be gone
			scheduler.Schedule(f.resume)
		}
	}()
	return true
}

// lookUp decides the check with a look-up.
func (f *filter) lookUp(ctx context.Context) {
	defer func() {
		if value := recover(); value != nil {
			f.factory.panicked(value)
			f.outcome = f.factory.Checker.Fail(&f.request)
		}
	}()
	f.outcome.Finish(ctx)
}

// resume continues the stream after its look-up. Envoy calls it in the worker.
func (f *filter) resume() {
	defer f.factory.recovered()
	if f.ended { // written in this thread
		return
	}
	if f.settle() {
		f.handle.ContinueRequest()
	}
}

// settle applies the answer after a look-up.
func (f *filter) settle() (allowed bool) {
	var headers shared.HeaderMap
	defer func() {
		if value := recover(); value != nil {
			f.factory.panicked(value)
			allowed = f.fail(headers)
		}
	}()
	headers = f.handle.RequestHeaders()
	return f.apply(headers)
}

// OnStreamComplete implements shared.HttpFilter: it ends the look-up of a client that is gone.
func (f *filter) OnStreamComplete() {
	defer f.factory.recovered()
	if f.cancel == nil {
		return
	}
	f.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
}

// OnDestroy implements shared.HttpFilter. It does the same, for a stream that ends without
// OnStreamComplete. A filter that has not waited is used again: nothing refers to it any more.
func (f *filter) OnDestroy() {
	f.OnStreamComplete()
	if f.cancel == nil {
		*f = filter{}
		filters.Put(f)
	}
}

// filters keeps the memory of filters. New memory for each check is cold, and costs more than the
// decision.
var filters = sync.Pool{New: func() any { return new(filter) }}
