// Package keyserver is the key API over HTTP: three sides with one store.
//
//	sidecars   resolve, changes (the long poll), usage   service token or mutual TLS
//	operators  accounts, keys, sessions, audit           operators' tokens
//	owners     the keys of one account                   Envoy's identity headers
//
// Package httpapi routes a request, checks its bounds and writes the response. auth.go identifies the caller, and
// request.go reads what the operations have in common. Each operation is in a file of its side. answer.go makes the
// wire types of the store's objects and waits until a change is effective.
//
// sidecar_changes.go records a sidecar's poll before it reads the log for it. The proof that a revocation is
// effective depends on this order.
package keyserver

import (
	"context"
	_ "embed"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Settings are the settings that may change while the server runs.
type Settings struct {
	// SidecarTokens are the accepted service tokens. Without one a sidecar needs a client certificate that its
	// listener has verified.
	SidecarTokens []Token
	// Operators may use the operators' side. Without one all operator requests are rejected.
	Operators []Operator
	// Lease is the lease that each poll of a sidecar gets.
	Lease time.Duration
	// LongestMaxStale is the longest stale time that a sidecar may declare.
	LongestMaxStale time.Duration
	// LogRetention is how far back the change log reaches.
	LogRetention time.Duration
	// Catalogue has every scope that can be granted, and who may grant it.
	Catalogue Catalogue
	// KeysPerAccount bounds the keys of an owner that are neither revoked nor expired.
	KeysPerAccount int
	// OwnerLimits bounds owners' writes, for each account.
	OwnerLimits OwnerLimits
	// ClientNames are the names that the sides accept in client certificates.
	ClientNames ClientNames
}

// Token returns the current value of a bearer token. An empty one is never accepted.
type Token func() credential.Secret

// Operator is a user of the operators' side.
type Operator struct {
	Name  string
	Token Token
}

// Options are the dependencies of a Server.
type Options struct {
	Store   keystore.Store
	Log     *zap.Logger
	Metrics prometheus.Registerer
	// Draining is closed when the program begins to stop. Requests that wait are then answered immediately, and no
	// request waits any more. nil means never.
	Draining <-chan struct{}
	// Tracer makes the spans of requests in sampled traces. nil means none.
	Tracer trace.Tracer
}

// Server answers the key API's three sides from one store. It is safe for concurrent use.
type Server struct {
	store    keystore.Store
	log      *zap.Logger
	metrics  *metrics
	draining <-chan struct{}
	tracer   trace.Tracer // nil without tracing
	settings atomic.Pointer[Settings]
	failures map[string]*failures // by side
	writes   *writeLimits         // of owners
	parts    partLimits           // of an import
	tail     *tail
	waiting  atomic.Int64 // polls that wait for a change
	latest   atomic.Pointer[shared]
	acks     acks
	pending  pending

	// These errors may occur in every request of thousands of sidecars. Each is logged once per logInterval.
	beyondHead, full rate.Sometimes
}

const (
	// logInterval is the time between two log lines of one such error. Smaller fills the log; larger makes a
	// continuing error look like a past one.
	logInterval = time.Minute
	// storeTimeout bounds the store's work for one request. Smaller fails requests that a slow store would still
	// answer; larger keeps callers waiting for a store that is down.
	storeTimeout = 10 * time.Second
	// pruneInterval is the time between two prunings. Smaller reads the log more often; larger keeps more of it.
	pruneInterval = time.Minute
	// countInterval is the time between two counts of the sidecars. Smaller reads the record more often; larger
	// makes the metric older.
	countInterval = 10 * time.Second
)

// New makes a server. Long polls need Run.
func New(o Options, settings Settings) *Server {
	m := newMetrics(o.Metrics)
	s := &Server{
		store:    newTimedStore(o.Store, o.Metrics),
		log:      o.Log,
		draining: o.Draining,
		tracer:   o.Tracer,
		metrics:  m,
		failures: map[string]*failures{sidecarsSide: newFailures(), operatorsSide: newFailures()},
		writes:   newWriteLimits(limitedAccounts, m.rejected),
		parts:    partLimits{keys: keystore.MaxImport, fill: partFill, timeout: partTimeout},
		tail:     newTail(keptChanges),

		beyondHead: rate.Sometimes{First: 1, Interval: logInterval},
		full:       rate.Sometimes{First: 1, Interval: logInterval},
	}
	s.Apply(settings)
	return s
}

// Apply changes the settings of the requests that begin from now on.
func (s *Server) Apply(settings Settings) { s.settings.Store(&settings) }

// Run follows the change log for the long polls, prunes the store and counts the sidecars, until ctx ends. It
// returns nil: failures are logged, counted and retried.
func (s *Server) Run(ctx context.Context) error {
	var loops errgroup.Group
	loops.Go(func() error { s.follow(ctx); return nil })
	loops.Go(func() error { s.repeat(ctx, pruneLoop, pruneInterval, pruneInterval, s.prune); return nil })
	loops.Go(func() error { s.repeat(ctx, countLoop, countInterval, storeTimeout, s.countSidecars); return nil })
	return loops.Wait()
}

// repeat runs do at the interval until ctx ends.
func (s *Server) repeat(ctx context.Context, name string, interval, timeout time.Duration, do func(context.Context) error) {
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, timeout)
		if err := do(bounded); err != nil && ctx.Err() == nil {
			s.storeFailed(name, err)
		}
		cancel()
		pause(ctx, interval, nil, nil)
	}
}

func (s *Server) prune(ctx context.Context) error {
	err := s.store.Prune(ctx, s.settings.Load().LogRetention)
	s.tail.forget() // it must not reach further back than the log
	return err
}

func (s *Server) storeFailed(at string, err error) {
	s.metrics.storeErrors.WithLabelValues(at).Inc()
	s.log.Error("the store failed", zap.String("at", at), zap.Error(err))
}

// The sides' names in metrics and logs.
const (
	sidecarsSide  = "sidecars"
	operatorsSide = "operators"
	ownersSide    = "owners"
)

// The background loops' names there.
const (
	followLoop = "follow"
	pruneLoop  = "prune"
	countLoop  = "count"
)

// Sidecars is the side of the authorization sidecars.
func (s *Server) Sidecars() http.Handler {
	return s.side(sidecarsSide, s.authenticateSidecar, s.sidecarRoutes()).Handler()
}

// Operators is the administrators' side.
func (s *Server) Operators() http.Handler {
	return s.side(operatorsSide, s.authenticateOperator, s.operatorRoutes()).Handler()
}

// ownersBodyTimeout is httpapi.BodyTimeout for owners, whose bodies are small and come through Envoy.
const ownersBodyTimeout = 5 * time.Second

// Owners is the side of the accounts' owners. It trusts the identity headers of every request: only Envoy may
// reach it.
func (s *Server) Owners() http.Handler {
	api := s.side(ownersSide, authenticateOwner, s.ownerRoutes())
	api.BodyTimeout = ownersBodyTimeout
	api.Admit = func(c caller) (func(), error) { return s.writes.begin(c.account, s.settings.Load().OwnerLimits) }
	return api.Handler()
}

type route = httpapi.Route[caller]

func (s *Server) side(name string, authenticate func(*http.Request) (caller, error), routes []route) httpapi.API[caller] {
	return httpapi.API[caller]{
		Side:         name,
		Codes:        codes[name],
		Routes:       append(routes, describe),
		Accept:       func(r *http.Request) error { return s.acceptCertificate(r, name) },
		Authenticate: authenticate,
		Reject:       func(r *http.Request, err error) *httpapi.Error { return s.reject(name, r, err) },
		Timeout:      storeTimeout,
		Draining:     s.draining,
		Metrics:      s.metrics.http,
		Tracer:       s.tracer,
	}
}

// description is the OpenAPI document of all three sides.
//
//go:embed openapi.yaml
var description string

const descriptionPath = "/openapi.yaml"

// describe is a route of every side. It is public because client generators send no token, and the document
// has no secrets.
var describe = route{
	Method: http.MethodGet,
	Path:   descriptionPath,
	Public: true,
	Do: func(context.Context, *httpapi.Call[caller]) (httpapi.Response, error) {
		return httpapi.Response{
			Status: http.StatusOK,
			Body:   httpapi.Text(description),
			Header: map[string]string{"Content-Type": "application/yaml"},
		}, nil
	},
}

const (
	unavailable    = "The key API's store cannot answer"
	unknownOutcome = "; whether the change was made is not known"
)

// reject maps an error of an operation to the response. The text of an error of the store goes to the log only.
func (s *Server) reject(side string, r *http.Request, err error) *httpapi.Error {
	if rejected, ok := errors.AsType[*httpapi.Error](err); ok {
		return rejected
	}
	if conflict, ok := errors.AsType[*keystore.Conflict](err); ok {
		return httpapi.Errorf(http.StatusConflict, "%s", conflict.Message)
	}
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return httpapi.Errorf(http.StatusNotFound, "No such account, key or session")
	case errors.Is(err, keystore.ErrCursor):
		return httpapi.ErrCursor
	case errors.Is(err, keystore.ErrFull):
		s.full.Do(func() {
			s.log.Error("too many sidecars on record: new ones are rejected until others are forgotten; if the service token has leaked, replace it",
				zap.Int("limit", keystore.MaxSidecars))
		})
		return httpapi.Errorf(http.StatusServiceUnavailable, "Too many sidecars are on record").RetryAfter(1)
	}
	rejected := httpapi.Errorf(http.StatusServiceUnavailable, unavailable).RetryAfter(1)
	if side != sidecarsSide && r.Method != http.MethodGet && r.Method != http.MethodHead {
		rejected.Message += unknownOutcome
	}
	if !errors.Is(r.Context().Err(), context.Canceled) { // a client that disconnects cancels the call of the store
		s.metrics.storeErrors.WithLabelValues(side).Inc()
		s.log.Error("the store failed", zap.String("side", side), zap.String("route", r.Pattern), zap.Error(err))
	}
	return rejected
}

func (s *Server) operatorRoutes() []route {
	return slices.Concat(s.accountRoutes(), s.keyRoutes(), s.recordRoutes())
}
