package keyserver

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

// timedStore observes how long the operations of a store take, also those that fail, and records their spans in the
// traces of requests. It forwards them and adds nothing.
type timedStore struct {
	keystore.Store
	seconds map[string]prometheus.Observer
}

// spansName is the instrumentation scope of the store's spans.
const spansName = "github.com/phantomrouter/phantom-authz/pkg/keyserver"

// operations are the values of the label operation: the methods of keystore.Store that work in the database.
var operations = []string{
	"create_account", "account", "accounts", "set_account_state",
	"create_key", "import_keys", "key", "keys", "revoke_key", "revoke_chain", "roll_key", "set_key_scope",
	"create_session", "end_session", "events", "record_usage", "key_usage",
	"resolve", "head", "changes", "record_poll", "forget", "sidecars", "progress", "leases", "prune", "ping",
}

func newTimedStore(store keystore.Store, reg prometheus.Registerer) timedStore {
	seconds := prometheus.NewHistogramVec(telemetry.Native(prometheus.HistogramOpts{
		Name:    namespace + "_store_operation_duration_seconds",
		Help:    "Seconds that an operation of the store took, by operation.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .1, .5, 1, 5},
	}), []string{"operation"})
	reg.MustRegister(seconds)
	t := timedStore{store, map[string]prometheus.Observer{}}
	for _, name := range operations {
		t.seconds[name] = seconds.WithLabelValues(name)
	}
	return t
}

// operation is one operation in progress.
type operation struct {
	seconds prometheus.Observer
	began   time.Time
	span    trace.Span // nil outside of a recorded trace
}

// begin begins an operation. The context that it returns has the operation's span.
func (t timedStore) begin(ctx context.Context, name string) (context.Context, operation) {
	op := operation{seconds: t.seconds[name], began: time.Now()}
	if parent := trace.SpanFromContext(ctx); parent.IsRecording() {
		ctx, op.span = parent.TracerProvider().Tracer(spansName).Start(ctx, "store "+name, trace.WithSpanKind(trace.SpanKindClient))
	}
	return ctx, op
}

func (o operation) end() {
	if o.span != nil {
		o.span.End()
	}
	o.seconds.Observe(time.Since(o.began).Seconds())
}

// Ping implements keystore.Store.
func (t timedStore) Ping(ctx context.Context) error {
	ctx, op := t.begin(ctx, "ping")
	defer op.end()
	return t.Store.Ping(ctx)
}

// CreateAccount implements keystore.Store.
func (t timedStore) CreateAccount(ctx context.Context, actor, id, name string) (keystore.Account, error) {
	ctx, op := t.begin(ctx, "create_account")
	defer op.end()
	return t.Store.CreateAccount(ctx, actor, id, name)
}

// Account implements keystore.Store.
func (t timedStore) Account(ctx context.Context, id string) (keystore.Account, error) {
	ctx, op := t.begin(ctx, "account")
	defer op.end()
	return t.Store.Account(ctx, id)
}

// Accounts implements keystore.Store.
func (t timedStore) Accounts(ctx context.Context, page keystore.Page) (list []keystore.Account, next string, err error) {
	ctx, op := t.begin(ctx, "accounts")
	defer op.end()
	return t.Store.Accounts(ctx, page)
}

// SetAccountState implements keystore.Store.
func (t timedStore) SetAccountState(ctx context.Context, actor, id string, state credential.State) (keystore.Account, error) {
	ctx, op := t.begin(ctx, "set_account_state")
	defer op.end()
	return t.Store.SetAccountState(ctx, actor, id, state)
}

// CreateKey implements keystore.Store.
func (t timedStore) CreateKey(ctx context.Context, actor string, key keystore.NewKey) (keystore.Key, error) {
	ctx, op := t.begin(ctx, "create_key")
	defer op.end()
	return t.Store.CreateKey(ctx, actor, key)
}

// ImportKeys implements keystore.Store.
func (t timedStore) ImportKeys(ctx context.Context, actor string, keys []keystore.NewKey) (keystore.Imported, error) {
	ctx, op := t.begin(ctx, "import_keys")
	defer op.end()
	return t.Store.ImportKeys(ctx, actor, keys)
}

// Key implements keystore.Store.
func (t timedStore) Key(ctx context.Context, id string) (keystore.Key, error) {
	ctx, op := t.begin(ctx, "key")
	defer op.end()
	return t.Store.Key(ctx, id)
}

// Keys implements keystore.Store.
func (t timedStore) Keys(ctx context.Context, account string, page keystore.Page) (list []keystore.Key, next string, err error) {
	ctx, op := t.begin(ctx, "keys")
	defer op.end()
	return t.Store.Keys(ctx, account, page)
}

// RevokeKey implements keystore.Store.
func (t timedStore) RevokeKey(ctx context.Context, actor, id, account string) (keystore.Key, error) {
	ctx, op := t.begin(ctx, "revoke_key")
	defer op.end()
	return t.Store.RevokeKey(ctx, actor, id, account)
}

// RevokeChain implements keystore.Store.
func (t timedStore) RevokeChain(ctx context.Context, actor, id, account string) (keystore.RevokedChain, error) {
	ctx, op := t.begin(ctx, "revoke_chain")
	defer op.end()
	return t.Store.RevokeChain(ctx, actor, id, account)
}

// RollKey implements keystore.Store.
func (t timedStore) RollKey(ctx context.Context, actor string, roll keystore.Roll) (successor, replaced keystore.Key, err error) {
	ctx, op := t.begin(ctx, "roll_key")
	defer op.end()
	return t.Store.RollKey(ctx, actor, roll)
}

// SetKeyScope implements keystore.Store.
func (t timedStore) SetKeyScope(ctx context.Context, actor, id, scope string, granted bool) (keystore.Key, error) {
	ctx, op := t.begin(ctx, "set_key_scope")
	defer op.end()
	return t.Store.SetKeyScope(ctx, actor, id, scope, granted)
}

// CreateSession implements keystore.Store.
func (t timedStore) CreateSession(ctx context.Context, actor string, session keystore.NewSession) (keystore.Session, error) {
	ctx, op := t.begin(ctx, "create_session")
	defer op.end()
	return t.Store.CreateSession(ctx, actor, session)
}

// EndSession implements keystore.Store.
func (t timedStore) EndSession(ctx context.Context, actor, id string) (keystore.Session, error) {
	ctx, op := t.begin(ctx, "end_session")
	defer op.end()
	return t.Store.EndSession(ctx, actor, id)
}

// Events implements keystore.Store.
func (t timedStore) Events(ctx context.Context, account, key string, page keystore.Page) (list []keystore.Event, next string, err error) {
	ctx, op := t.begin(ctx, "events")
	defer op.end()
	return t.Store.Events(ctx, account, key, page)
}

// RecordUsage implements keystore.Store.
func (t timedStore) RecordUsage(ctx context.Context, sidecar string, used []keystore.Usage) error {
	ctx, op := t.begin(ctx, "record_usage")
	defer op.end()
	return t.Store.RecordUsage(ctx, sidecar, used)
}

// KeyUsage implements keystore.Store.
func (t timedStore) KeyUsage(ctx context.Context, span keystore.UsageSpan, page keystore.Page) (list []keystore.UsageHour, next string, err error) {
	ctx, op := t.begin(ctx, "key_usage")
	defer op.end()
	return t.Store.KeyUsage(ctx, span, page)
}

// Resolve implements keystore.Store.
func (t timedStore) Resolve(ctx context.Context, digests []credential.Digest) (keystore.Head, []keystore.Fact, error) {
	ctx, op := t.begin(ctx, "resolve")
	defer op.end()
	return t.Store.Resolve(ctx, digests)
}

// Head implements keystore.Store.
func (t timedStore) Head(ctx context.Context) (keystore.Head, error) {
	ctx, op := t.begin(ctx, "head")
	defer op.end()
	return t.Store.Head(ctx)
}

// Changes implements keystore.Store.
func (t timedStore) Changes(ctx context.Context, epoch string, after int64, limit int) (keystore.Head, []keystore.Change, error) {
	ctx, op := t.begin(ctx, "changes")
	defer op.end()
	return t.Store.Changes(ctx, epoch, after, limit)
}

// RecordPoll implements keystore.Store.
func (t timedStore) RecordPoll(ctx context.Context, poll keystore.Poll) (keystore.Head, time.Duration, error) {
	ctx, op := t.begin(ctx, "record_poll")
	defer op.end()
	return t.Store.RecordPoll(ctx, poll)
}

// Forget implements keystore.Store.
func (t timedStore) Forget(ctx context.Context, actor, sidecar string) (keystore.Sidecar, error) {
	ctx, op := t.begin(ctx, "forget")
	defer op.end()
	return t.Store.Forget(ctx, actor, sidecar)
}

// Sidecars implements keystore.Store.
func (t timedStore) Sidecars(ctx context.Context, page keystore.Page) (head keystore.Head, list []keystore.Sidecar, next string, err error) {
	ctx, op := t.begin(ctx, "sidecars")
	defer op.end()
	return t.Store.Sidecars(ctx, page)
}

// Progress implements keystore.Store.
func (t timedStore) Progress(ctx context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	ctx, op := t.begin(ctx, "progress")
	defer op.end()
	return t.Store.Progress(ctx, revision)
}

// Leases implements keystore.Store.
func (t timedStore) Leases(ctx context.Context) (keystore.Head, keystore.Leases, error) {
	ctx, op := t.begin(ctx, "leases")
	defer op.end()
	return t.Store.Leases(ctx)
}

// Prune implements keystore.Store.
func (t timedStore) Prune(ctx context.Context, retention time.Duration) error {
	ctx, op := t.begin(ctx, "prune")
	defer op.end()
	return t.Store.Prune(ctx, retention)
}
