package daemon

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// readiness answers /readyz: 200 from the end of the start until the stop begins, while all checks
// pass.
type readiness struct {
	mu     sync.Mutex
	checks []readyCheck

	started, stopping, draining chan struct{} // closed when the state is reached
	reason                      atomic.Pointer[string]
}

type readyCheck struct {
	name  string
	check func() error
}

func newReadiness() *readiness {
	return &readiness{started: make(chan struct{}), stopping: make(chan struct{}), draining: make(chan struct{})}
}

func (r *readiness) add(name string, check func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks = append(r.checks, readyCheck{name, check})
}

// reasons returns why the program is not ready, nil if it is ready.
func (r *readiness) reasons() []string {
	switch {
	case isClosed(r.stopping):
		return []string{"stopping"}
	case isClosed(r.started):
	case r.reason.Load() != nil:
		return []string{"starting: " + *r.reason.Load()}
	default:
		return []string{"starting"}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, c := range r.checks {
		if err := c.check(); err != nil {
			all = append(all, fmt.Sprintf("%s: %s", c.name, err))
		}
	}
	return all
}

// ServeHTTP implements http.Handler.
func (r *readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if reasons := r.reasons(); len(reasons) > 0 {
		writeText(w, http.StatusServiceUnavailable, strings.Join(reasons, "\n"))
		return
	}
	writeText(w, http.StatusOK, "ready")
}

// alive answers /livez with 200.
func alive(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "alive") }

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // fails only for a client that is gone
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
