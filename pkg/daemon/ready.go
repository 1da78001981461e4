package daemon

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// readiness answers /readyz: 200 from the end of a good start to the signal to stop,
// while all conditions hold.
type readiness struct {
	mu         sync.Mutex
	conditions []condition

	started, stopping, draining chan struct{} // closed when it is so
	reason                      atomic.Pointer[string]
}

type condition struct {
	name  string
	check func() error
}

func newReadiness() *readiness {
	return &readiness{started: make(chan struct{}), stopping: make(chan struct{}), draining: make(chan struct{})}
}

func (r *readiness) add(name string, check func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conditions = append(r.conditions, condition{name, check})
}

// reasons returns why the program is not ready; none if it is.
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
	for _, c := range r.conditions {
		if err := c.check(); err != nil {
			all = append(all, fmt.Sprintf("%s: %s", c.name, err))
		}
	}
	return all
}

// ServeHTTP implements http.Handler.
func (r *readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if reasons := r.reasons(); len(reasons) > 0 {
		plain(w, http.StatusServiceUnavailable, strings.Join(reasons, "\n"))
		return
	}
	plain(w, http.StatusOK, "ready")
}

// alive answers /livez: whoever can answer is.
func alive(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive") }

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // a prober that has gone needs no answer
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
