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

// sidecar is a real cache with its real client.
type sidecar struct {
	cache  *keycache.Cache
	client *sidecarapi.Client
	link   *link
	// nameShared: another process has the same name and number. The guarantee holds again
	// once one of them has another name.
	nameShared bool
	stop       func() // ends Run and waits
}

// name returns a new sidecar name.
func (w *world) name() string { return fmt.Sprint("sidecar-", w.names.Add(1)) }

func (w *world) addSidecar() { w.addSidecarOver(w.network.link()) }

// addSidecarOver starts a sidecar over a link.
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
	s.stop = func() { cancel(); <-ended }
}

// shutdown ends the checks and then deregisters.
func (s *sidecar) shutdown() {
	s.stop()
	s.cache.Close()
	s.client.Close()
}

// kill stops without a deregistration.
func (s *sidecar) kill() {
	s.link.set(disconnected)
	s.shutdown()
}
