package keycache_test

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// sidecar is one real cache with its real client.
type sidecar struct {
	cache  *keycache.Cache
	client *sidecarapi.Client
	link   *link
	// doubtful: another process has the same name and number. Nothing is promised of either
	// until one of them has another name.
	doubtful bool
	end      func() // ends Run and waits for it
}

// name returns a new name of a sidecar.
func (w *world) name() string { return fmt.Sprint("sidecar-", w.named.Add(1)) }

func (w *world) addSidecar() { w.addSidecarOver(w.network.link()) }

// addSidecarOver starts a sidecar that has that way to the key API.
func (w *world) addSidecarOver(l *link) *sidecar {
	s := w.newSidecar(l)
	s.cache = keycache.New(s.client, w.options())
	s.run()
	w.sidecars = append(w.sidecars, s)
	return s
}

func (w *world) newSidecar(l *link) *sidecar {
	s := &sidecar{link: l}
	address, _ := url.Parse("https://key-api")
	s.client = sidecarapi.New(sidecarapi.Options{
		URL: address, Token: secret(serviceToken), DialTLS: s.link.dial, Timeout: 400 * time.Millisecond,
	})
	return s
}

func (w *world) options() keycache.Options {
	return keycache.Options{
		Name: w.name, ChangesOptional: *fault == ttlMode, Known: 100, Unknown: 100, Times: w.times,
		Admission: keycache.Admission{PerSecond: 1_000_000, Burst: 1_000_000},
		Log:       zap.NewNop(), Metrics: prometheus.NewRegistry(),
	}
}

func (s *sidecar) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.cache.Run(ctx) }()
	s.end = func() { cancel(); <-ended }
}

// leave is a clean stop: no check begins any more, then the goodbye.
func (s *sidecar) leave() {
	s.end()
	s.cache.Close()
	s.client.Close()
}

// kill says no goodbye.
func (s *sidecar) kill() {
	s.link.set(cut)
	s.leave()
}
