package keyserver

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Settings are what may change while the server runs.
type Settings struct {
	// SidecarTokens are the service tokens, any of which is accepted. Without one a
	// sidecar needs a client certificate that its listener has verified.
	SidecarTokens []Token
	// Operators are those who may use the operators' side; without one nobody may.
	Operators []Operator
	// Lease is what each poll of a sidecar is given.
	Lease time.Duration
	// LongestMaxStale is the longest stale time that a sidecar may declare.
	LongestMaxStale time.Duration
	// LogRetention is how far back the change log reaches.
	LogRetention time.Duration
	// Catalogue names every scope that can be granted, and who may.
	Catalogue Catalogue
	// KeysPerAccount bounds the keys that an owner may hold, neither revoked nor
	// expired.
	KeysPerAccount int
	// OwnerLimits bounds owners' writes, for each account.
	OwnerLimits OwnerLimits
	// ClientNames are the names that the sides accept in client certificates.
	ClientNames ClientNames
}

// Token returns a bearer token as it is at the moment; an empty one is accepted
// from nobody.
type Token func() credential.Secret

// Operator is one who may use the operators' side.
type Operator struct {
	Name  string
	Token Token
}

// Options are what a Server stands on.
type Options struct {
	Store keystore.Store
	Log   *zap.Logger
	// Metrics is where the server's metrics are registered.
	Metrics prometheus.Registerer
	// Draining is closed when the program begins to stop: all who wait are answered
	// then, at once and with what there is, and nobody waits any more. nil: never.
	Draining <-chan struct{}
}

// Server answers the key API's three sides from one store. It is safe for
// concurrent use.
type Server struct {
	store    keystore.Store
	log      *zap.Logger
	metrics  *metrics
	draining <-chan struct{}
	settings atomic.Pointer[Settings]
	failures map[string]*failures // by side
	writes   *writeLimits         // of owners
	parts    partLimits           // of an import
	tail     *tail
	waiting  atomic.Int64 // polls in await

	// Errors that every request of a fleet may cause are logged once in a while.
	beyondHead, full rate.Sometimes
}

// logAgain is the time between two log lines of one such error. Smaller fills the log;
// larger hides from its reader that the error goes on.
const logAgain = time.Minute

// New makes a server. Long polls need Run beside it.
func New(o Options, settings Settings) *Server {
	s := &Server{
		store:    o.Store,
		log:      o.Log,
		draining: o.Draining,
		failures: map[string]*failures{sidecarsSide: newFailures(), operatorsSide: newFailures()},
		writes:   newWriteLimits(limitedAccounts),
		parts:    partLimits{keys: keystore.MaxImport, fill: partFill, timeout: partTimeout},
		tail:     newTail(),

		beyondHead: rate.Sometimes{First: 1, Interval: logAgain},
		full:       rate.Sometimes{First: 1, Interval: logAgain},
	}
	s.metrics = newMetrics(o.Metrics)
	s.Apply(settings)
	return s
}

// Apply takes up other settings for the requests that begin from now on.
func (s *Server) Apply(settings Settings) { s.settings.Store(&settings) }

// storeTimeout bounds what one request may ask of the store: far longer than any
// healthy store takes, and short enough for a caller to hear of a sick one.
const storeTimeout = 10 * time.Second

// Run follows the change log for the long polls and prunes the store, until ctx
// ends. It returns nil: what fails is logged, counted and tried again.
func (s *Server) Run(ctx context.Context) error {
	var loops errgroup.Group
	loops.Go(func() error { s.follow(ctx); return nil })
	loops.Go(func() error { s.keepHouse(ctx); return nil })
	loops.Go(func() error { s.keepCount(ctx); return nil })
	return loops.Wait()
}

// The sides' names in metrics and logs.
const (
	sidecarsSide  = "sidecars"
	operatorsSide = "operators"
	ownersSide    = "owners"
)

// Sidecars is the side of the authorization sidecars.
func (s *Server) Sidecars() http.Handler {
	return newSide(s, sidecarsSide, s.sidecar, s.sidecarRoutes())
}

// Operators is the side of those who administrate.
func (s *Server) Operators() http.Handler {
	return newSide(s, operatorsSide, s.operator, slices.Concat(s.accountRoutes(), s.keyRoutes(), s.sessionRoutes(), s.recordRoutes()))
}

// Owners is the side of the accounts' owners. It believes the identity headers
// that it is sent: only Envoy may reach it.
func (s *Server) Owners() http.Handler {
	d := newSide(s, ownersSide, s.owner, s.ownerRoutes())
	d.bodyTimeout, d.writes = ownersBodyTimeout, s.writes
	return d
}
