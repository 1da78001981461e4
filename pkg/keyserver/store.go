package keyserver

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

// timedStore observes how long the operations of a store take, also those that fail. It forwards them and adds nothing.
type timedStore struct {
	keystore.Store
	seconds map[string]prometheus.Observer
}

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

func (t timedStore) observe(operation string, began time.Time) {
	t.seconds[operation].Observe(time.Since(began).Seconds())
}

// Ping implements keystore.Store.
func (t timedStore) Ping(ctx context.Context) error {
	defer t.observe("ping", time.Now())
	return t.Store.Ping(ctx)
}

// CreateAccount implements keystore.Store.
func (t timedStore) CreateAccount(ctx context.Context, actor, id, name string) (keystore.Account, error) {
	defer t.observe("create_account", time.Now())
	return t.Store.CreateAccount(ctx, actor, id, name)
}

// Account implements keystore.Store.
func (t timedStore) Account(ctx context.Context, id string) (keystore.Account, error) {
	defer t.observe("account", time.Now())
	return t.Store.Account(ctx, id)
}

// Accounts implements keystore.Store.
func (t timedStore) Accounts(ctx context.Context, page keystore.Page) (list []keystore.Account, next string, err error) {
	defer t.observe("accounts", time.Now())
	return t.Store.Accounts(ctx, page)
}

// SetAccountState implements keystore.Store.
func (t timedStore) SetAccountState(ctx context.Context, actor, id string, state credential.State) (keystore.Account, error) {
	defer t.observe("set_account_state", time.Now())
	return t.Store.SetAccountState(ctx, actor, id, state)
}

// CreateKey implements keystore.Store.
func (t timedStore) CreateKey(ctx context.Context, actor string, key keystore.NewKey) (keystore.Key, error) {
	defer t.observe("create_key", time.Now())
	return t.Store.CreateKey(ctx, actor, key)
}

// ImportKeys implements keystore.Store.
func (t timedStore) ImportKeys(ctx context.Context, actor string, keys []keystore.NewKey) (keystore.Imported, error) {
	defer t.observe("import_keys", time.Now())
	return t.Store.ImportKeys(ctx, actor, keys)
}

// Key implements keystore.Store.
func (t timedStore) Key(ctx context.Context, id string) (keystore.Key, error) {
	defer t.observe("key", time.Now())
	return t.Store.Key(ctx, id)
}

// Keys implements keystore.Store.
func (t timedStore) Keys(ctx context.Context, account string, page keystore.Page) (list []keystore.Key, next string, err error) {
	defer t.observe("keys", time.Now())
	return t.Store.Keys(ctx, account, page)
}

// RevokeKey implements keystore.Store.
func (t timedStore) RevokeKey(ctx context.Context, actor, id, account string) (keystore.Key, error) {
	defer t.observe("revoke_key", time.Now())
	return t.Store.RevokeKey(ctx, actor, id, account)
}

// RevokeChain implements keystore.Store.
func (t timedStore) RevokeChain(ctx context.Context, actor, id, account string) (keystore.RevokedChain, error) {
	defer t.observe("revoke_chain", time.Now())
	return t.Store.RevokeChain(ctx, actor, id, account)
}

// RollKey implements keystore.Store.
func (t timedStore) RollKey(ctx context.Context, actor string, roll keystore.Roll) (successor, replaced keystore.Key, err error) {
	defer t.observe("roll_key", time.Now())
	return t.Store.RollKey(ctx, actor, roll)
}

// SetKeyScope implements keystore.Store.
func (t timedStore) SetKeyScope(ctx context.Context, actor, id, scope string, granted bool) (keystore.Key, error) {
	defer t.observe("set_key_scope", time.Now())
	return t.Store.SetKeyScope(ctx, actor, id, scope, granted)
}

// CreateSession implements keystore.Store.
func (t timedStore) CreateSession(ctx context.Context, actor string, session keystore.NewSession) (keystore.Session, error) {
	defer t.observe("create_session", time.Now())
	return t.Store.CreateSession(ctx, actor, session)
}

// EndSession implements keystore.Store.
func (t timedStore) EndSession(ctx context.Context, actor, id string) (keystore.Session, error) {
	defer t.observe("end_session", time.Now())
	return t.Store.EndSession(ctx, actor, id)
}

// Events implements keystore.Store.
func (t timedStore) Events(ctx context.Context, account, key string, page keystore.Page) (list []keystore.Event, next string, err error) {
	defer t.observe("events", time.Now())
	return t.Store.Events(ctx, account, key, page)
}

// RecordUsage implements keystore.Store.
func (t timedStore) RecordUsage(ctx context.Context, sidecar string, used []keystore.Usage) error {
	defer t.observe("record_usage", time.Now())
	return t.Store.RecordUsage(ctx, sidecar, used)
}

// KeyUsage implements keystore.Store.
func (t timedStore) KeyUsage(ctx context.Context, span keystore.UsageSpan, page keystore.Page) (list []keystore.UsageHour, next string, err error) {
	defer t.observe("key_usage", time.Now())
	return t.Store.KeyUsage(ctx, span, page)
}

// Resolve implements keystore.Store.
func (t timedStore) Resolve(ctx context.Context, digests []credential.Digest) (keystore.Head, []keystore.Fact, error) {
	defer t.observe("resolve", time.Now())
	return t.Store.Resolve(ctx, digests)
}

// Head implements keystore.Store.
func (t timedStore) Head(ctx context.Context) (keystore.Head, error) {
	defer t.observe("head", time.Now())
	return t.Store.Head(ctx)
}

// Changes implements keystore.Store.
func (t timedStore) Changes(ctx context.Context, epoch string, after int64, limit int) (keystore.Head, []keystore.Change, error) {
	defer t.observe("changes", time.Now())
	return t.Store.Changes(ctx, epoch, after, limit)
}

// RecordPoll implements keystore.Store.
func (t timedStore) RecordPoll(ctx context.Context, poll keystore.Poll) (keystore.Head, time.Duration, error) {
	defer t.observe("record_poll", time.Now())
	return t.Store.RecordPoll(ctx, poll)
}

// Forget implements keystore.Store.
func (t timedStore) Forget(ctx context.Context, actor, sidecar string) (keystore.Sidecar, error) {
	defer t.observe("forget", time.Now())
	return t.Store.Forget(ctx, actor, sidecar)
}

// Sidecars implements keystore.Store.
func (t timedStore) Sidecars(ctx context.Context, page keystore.Page) (head keystore.Head, list []keystore.Sidecar, next string, err error) {
	defer t.observe("sidecars", time.Now())
	return t.Store.Sidecars(ctx, page)
}

// Progress implements keystore.Store.
func (t timedStore) Progress(ctx context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	defer t.observe("progress", time.Now())
	return t.Store.Progress(ctx, revision)
}

// Leases implements keystore.Store.
func (t timedStore) Leases(ctx context.Context) (keystore.Head, keystore.Leases, error) {
	defer t.observe("leases", time.Now())
	return t.Store.Leases(ctx)
}

// Prune implements keystore.Store.
func (t timedStore) Prune(ctx context.Context, retention time.Duration) error {
	defer t.observe("prune", time.Now())
	return t.Store.Prune(ctx, retention)
}
