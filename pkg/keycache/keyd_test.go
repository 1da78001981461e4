package keycache_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keyserver"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
)

const (
	serviceToken  = "service-token"
	operatorToken = "operator-token"
)

// keyd is the real key API over a real SQLite file: its handlers, called by the
// network. Its clock runs at a rate of its own.
type keyd struct {
	folder   string
	settings keyserver.Settings
	began    time.Time
	rate     float64

	firstVersion firstVersion // only with a -fault

	mu      sync.Mutex
	running *process             // nil while it is down
	counts  map[string]time.Time // the end of the time of each sidecar that was given a lease
	left    map[string]bool      // names whose goodbye was answered, since the last restore
}

// process is one run of it.
type process struct {
	store               *sqlite.Store
	sidecars, operators http.Handler
	ctx                 context.Context
	kill                context.CancelFunc
	drain               chan struct{}
	calls, loops        sync.WaitGroup
}

// reply is an answer; status 0 says that none came.
type reply struct {
	status int
	body   []byte
}

// hasLeft notes that a goodbye was answered.
func (k *keyd) hasLeft(sidecar string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left[sidecar] = true
}

// countsUntil notes that a lease was given to a sidecar, to a poll that arrived then.
func (k *keyd) countsUntil(sidecar string, arrived time.Time, maxStale time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left[sidecar] {
		return
	}
	k.counts[sidecar] = arrived.Add(k.settings.Lease + maxStale)
}

// allThatLeft returns the names whose goodbye was answered until now and whose record still
// counts. Later the record is dropped, and a delayed poll may make it again.
func (k *keyd) allThatLeft() map[string]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, left := k.now(), maps.Clone(k.left)
	maps.DeleteFunc(left, func(name string, _ bool) bool { return !now.Before(k.counts[name]) })
	return left
}

// forgetLeft is for a restore: the copy has sidecars on record that have left since.
func (k *keyd) forgetLeft() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.left)
}

// now is its clock.
func (k *keyd) now() time.Time {
	return k.began.Add(time.Duration(float64(time.Since(k.began)) * k.rate))
}

func (k *keyd) path() string { return filepath.Join(k.folder, "keys.db") }

func (k *keyd) open() (*sqlite.Store, error) {
	return sqlite.Open(context.Background(), k.path(), sqlite.Options{Now: k.now})
}

func secret(s string) keyserver.Token {
	return func() credential.Secret { return credential.NewSecret(s) }
}

func (k *keyd) start() error {
	store, err := k.open()
	if err != nil {
		return err
	}
	p := &process{store: store, drain: make(chan struct{})}
	p.ctx, p.kill = context.WithCancel(context.Background())
	server := keyserver.New(keyserver.Options{
		Store: store, Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Draining: p.drain,
	}, k.settings)
	p.sidecars, p.operators = server.Sidecars(), server.Operators()
	p.loops.Go(func() { _ = server.Run(p.ctx) })
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running = p
	return nil
}

// stop ends it: with a drain, or as a kill does, whose calls get no answer.
func (k *keyd) stop(drain bool) error {
	k.mu.Lock()
	p := k.running
	k.running = nil
	k.mu.Unlock()
	if p == nil {
		return nil
	}
	if drain {
		close(p.drain)
		p.calls.Wait()
	}
	p.kill()
	p.calls.Wait()
	p.loops.Wait()
	return p.store.Close()
}

// call runs one request on what runs now.
func (k *keyd) call(client context.Context, side func(*process) http.Handler, r *http.Request) reply {
	k.mu.Lock()
	p := k.running
	if p != nil {
		p.calls.Add(1)
	}
	k.mu.Unlock()
	if p == nil {
		return reply{}
	}
	defer p.calls.Done()
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	if client.Err() == nil { // a request whose sender has gone is worked off all the same
		defer context.AfterFunc(client, cancel)()
	}
	w := httptest.NewRecorder()
	side(p).ServeHTTP(w, r.WithContext(ctx))
	if p.ctx.Err() != nil {
		return reply{}
	}
	return reply{w.Code, w.Body.Bytes()}
}

func (k *keyd) sidecar(client context.Context, path string, body []byte) reply {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+serviceToken)
	return k.call(client, func(p *process) http.Handler { return p.sidecars }, r)
}

func (k *keyd) operator(method, path, body string) reply {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+operatorToken)
	return k.call(context.Background(), func(p *process) http.Handler { return p.operators }, r)
}

// copyStore copies the store's file, which nobody has open.
func copyStore(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if closeErr := dst.Close(); err == nil {
		err = closeErr
	}
	return err
}

// newEpoch is keyd -new-epoch.
func (k *keyd) newEpoch() (keystore.Head, error) {
	store, err := k.open()
	if err != nil {
		return keystore.Head{}, err
	}
	head, err := store.NewEpoch(context.Background(), k.settings.Lease+k.settings.LongestMaxStale)
	if closeErr := store.Close(); err == nil {
		err = closeErr
	}
	return head, err
}
