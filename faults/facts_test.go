package faults_test

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Answers besides those of the matrix.
var (
	missing      = testbed.Answer{Reason: "no_credential", Status: 401}
	scopeMissing = testbed.Answer{Reason: "scope_missing", Status: 403}
)

// fact is what is true of a credential, or of a request without one.
type fact struct {
	answer testbed.Answer // where no scope is required
	scoped bool           // it has the scope
}

// wants returns the answer of an endpoint.
func (f fact) wants(scopeRequired bool) testbed.Answer {
	if f.answer == allowed && scopeRequired && !f.scoped {
		return scopeMissing
	}
	return f.answer
}

// history is a value that changes, and which of its versions may still be in use.
type history[T any] struct {
	mu       sync.Mutex
	versions []T
	oldest   int // the oldest version that may be in use
}

func newHistory[T any](first T) *history[T] { return &history[T]{versions: []T{first}} }

// change adds a version that may be in use from now on, and returns it with its number.
func (h *history[T]) change(next func(latest T) T) (version int, value T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	value = next(h.versions[len(h.versions)-1])
	h.versions = append(h.versions, value)
	return len(h.versions) - 1, value
}

// retire notes that no version before this one is in use any more.
func (h *history[T]) retire(before int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.oldest = max(h.oldest, before)
}

// begin returns the oldest version that may be in use.
func (h *history[T]) begin() (oldest int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.oldest
}

// since returns the versions that may have been in use at any time since a begin.
func (h *history[T]) since(oldest int) []T {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.versions[oldest:])
}

func (h *history[T]) latest() T {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.versions[len(h.versions)-1]
}

// subject is a credential, or none, with its history.
type subject struct {
	id     string // "" if keyd has none
	secret credential.Secret
	kept   bool // it is in the cache and never changes
	facts  *history[fact]
}

// endpoint is a path and whether it requires a scope.
type endpoint struct {
	path          string
	scopeRequired *history[bool]
}

// question is a request in flight: the oldest versions that its answer may be of.
type question struct {
	*subject
	*endpoint
	body        string
	oldestFact  int
	oldestScope int
}

func ask(s *subject, e *endpoint, body string) question {
	return question{s, e, body, s.facts.begin(), e.scopeRequired.begin()}
}

func (q question) request() request { return request{q.path, q.secret, q.body} }

// mayBeDenied reports whether the request is an upload that may have been denied: then Envoy closes the connection, and the
// client may receive the end of the connection while it still sends.
func (q question) mayBeDenied(o *outages, sent, received time.Time) bool {
	notAllowed := func(f fact) bool { return f.answer != allowed }
	return q.body != "" && (o.during(sent, received) || slices.ContainsFunc(q.facts.since(q.oldestFact), notAllowed))
}

// judge returns an error unless the reply is one that some version of the facts and of the endpoint wants. A denial for lack
// of facts is the caller's to judge.
func (q question) judge(got reply) error {
	if got.Answer == allowed && (got.credential != q.id || got.received != len(q.body)) {
		return fmt.Errorf("the upstream received credential %q, want %q, and %d bytes, want %d", got.credential, q.id, got.received, len(q.body))
	}
	facts := q.facts.since(q.oldestFact)
	for _, required := range q.scopeRequired.since(q.oldestScope) {
		for _, f := range facts {
			if got.Answer == f.wants(required) {
				return nil
			}
		}
	}
	return fmt.Errorf("%v is none of the answers to %v", got.Answer, facts)
}
