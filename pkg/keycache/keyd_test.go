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

// keyd is the real key API over a real SQLite file. The network calls its handlers. Its clock runs at
// its own rate.
type keyd struct {
	folder   string
	settings keyserver.Settings
	began    time.Time
	rate     float64

	oldProtocol oldProtocol // used with -fault alone

	mu           sync.Mutex
	running      *process             // nil while it is down
	recordEnds   map[string]time.Time // end of each sidecar's lease and stale time
	deregistered map[string]bool      // names whose deregistration was answered since the last restore
}

// process is one run of keyd.
type process struct {
	store               *sqlite.Store
	sidecars, operators http.Handler
	ctx                 context.Context
	kill                context.CancelFunc
	drain               chan struct{}
	calls, loops        sync.WaitGroup
}

// reply is an answer. Status 0 means that there was none.
type reply struct {
	status int
	body   []byte
}

// markDeregistered records that a deregistration was answered.
func (k *keyd) markDeregistered(sidecar string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deregistered[sidecar] = true
}

// recordLease records that a poll which arrived at a moment was answered with a lease.
func (k *keyd) recordLease(sidecar string, arrived time.Time, maxStale time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.deregistered[sidecar] {
		return
	}
	k.recordEnds[sidecar] = arrived.Add(k.settings.Lease + maxStale)
}

// deregisteredNames returns the names whose deregistration was answered and whose record still counts.
// Later the record is dropped, and a delayed poll may create it again.
func (k *keyd) deregisteredNames() map[string]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, left := k.now(), maps.Clone(k.deregistered)
	maps.DeleteFunc(left, func(name string, _ bool) bool { return !now.Before(k.recordEnds[name]) })
	return left
}

// clearDeregistered is for a restore: the copy has sidecars on record that deregistered since.
func (k *keyd) clearDeregistered() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.deregistered)
}

// now returns the time by keyd's clock.
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

// stop ends the process, with a drain or like a kill, whose calls get no answer.
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

// call sends a request to the running process.
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
	if client.Err() == nil { // keyd handles a request whose sender is gone
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

// copyStore copies the store's file while it is closed.
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

// newEpoch does what keyd -new-epoch does.
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
