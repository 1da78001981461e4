package storetest

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func testUsage(e *env) {
	a := e.account()
	k, other, s := e.key(a.ID), e.key(a.ID), e.session(a.ID, time.Hour)
	e.harness.Advance(time.Hour)
	now := e.head().Now
	use := func(at time.Time, digests ...credential.Digest) {
		e.Helper()
		var used []keystore.Usage
		for _, d := range digests {
			used = append(used, keystore.Usage{Digest: d, LastUsedAt: at, Allowed: 2, Denied: 1})
		}
		e.nothing(func() { e.ok(e.RecordUsage(e.ctx, "sidecar", used)) })
	}
	lastUsed := func(want time.Time) {
		e.Helper()
		k.LastUsedAt = want
		e.reads(k)
	}
	at := now.Add(-time.Minute).Truncate(time.Millisecond)
	use(at, digestOf("unknown"), k.Digest, s.Digest)
	lastUsed(at)
	use(at.Add(-time.Second), k.Digest) // older
	use(now.Add(time.Hour), k.Digest)   // in the future
	use(now)                            // nothing
	lastUsed(at)
	e.reads(other)
	e.ok(e.RecordUsage(e.ctx, "sidecar", []keystore.Usage{
		{Digest: k.Digest, LastUsedAt: at.Add(2 * time.Second), Allowed: -1, Denied: 1 << 62},
		{Digest: k.Digest, LastUsedAt: at.Add(time.Second), Allowed: 1 << 62, Denied: 1 << 62},
		{Digest: k.Digest, LastUsedAt: now.Add(time.Hour)},
	}))
	lastUsed(at.Add(2 * time.Second))
	use(at.Add(3*time.Second), k.Digest, other.Digest)
	lastUsed(at.Add(3 * time.Second))
}

// testUsageHours: usage is counted in the hour of the report and read by key, latest hour first.
func testUsageHours(e *env) {
	a, b := e.account(), e.account()
	k, other := e.key(a.ID), e.key(a.ID)
	e.hours("of an unused key", keystore.UsageSpan{Key: k.ID}, []keystore.UsageHour{})
	var want []keystore.UsageHour // latest first
	for i := range int64(5) {
		e.toNextHour()
		e.used(k.Digest, 10+i, i)
		e.used(k.Digest, 1, 0)
		e.used(other.Digest, 100, 100)
		e.used(digestOf("unknown"), 7, 7)
		want = append([]keystore.UsageHour{{Hour: e.head().Now.Truncate(time.Hour), Allowed: 11 + i, Denied: i}}, want...)
	}
	e.nothing(func() { e.used(k.Digest, 0, 0) })
	span := keystore.UsageSpan{Key: k.ID}
	e.hours("all", span, want)
	span.Account = a.ID
	e.hours("all of the account's own key", span, want)
	span.From = want[3].Hour
	e.hours("from an hour on", span, want[:4])
	span.From = want[3].Hour.Add(1)
	e.hours("from a moment within an hour on", span, want[:3])
	span.Until = want[0].Hour
	e.hours("until an hour", span, want[1:3])
	span.Until = want[0].Hour.Add(1)
	e.hours("until a moment within an hour", span, want[:3])
	span.Until = span.From
	e.hours("of an empty span", span, []keystore.UsageHour{})

	for _, missing := range []keystore.UsageSpan{{Key: "key_none"}, {Key: k.ID, Account: b.ID}, {Key: k.ID, Account: "acc_none"}} {
		_, _, err := e.KeyUsage(e.ctx, missing, keystore.Page{Limit: 1})
		e.is(err, keystore.ErrNotFound)
	}
	_, cursor, err := e.KeyUsage(e.ctx, keystore.UsageSpan{Key: k.ID}, keystore.Page{Limit: 1})
	e.ok(err)
	for _, another := range []keystore.UsageSpan{{Key: other.ID}, {Key: k.ID, From: want[4].Hour}, {Key: k.ID, Until: want[0].Hour}} {
		_, _, err := e.KeyUsage(e.ctx, another, keystore.Page{Limit: 1, After: cursor})
		e.is(err, keystore.ErrCursor)
	}
	_, _, err = e.Events(e.ctx, "", k.ID, keystore.Page{Limit: 1, After: cursor})
	e.is(err, keystore.ErrCursor)
}

// testUsageRetention: the hours that are too old are deleted, of every key, and no others.
func testUsageRetention(e *env) {
	a := e.account()
	var keys []keystore.Key
	for range 5 {
		keys = append(keys, e.key(a.ID))
	}
	e.toNextHour()
	hour := e.head().Now.Truncate(time.Hour)
	for _, k := range keys {
		e.used(k.Digest, 1, 0)
	}
	e.harness.Advance(keystore.UsageRetention - 2*time.Hour)
	e.used(keys[0].Digest, 2, 0)
	late := keystore.UsageHour{Hour: e.head().Now.Truncate(time.Hour), Allowed: 2}
	e.prune()
	e.hours("before they are too old", keystore.UsageSpan{Key: keys[0].ID}, []keystore.UsageHour{late, {Hour: hour, Allowed: 1}})
	for range 2 { // the second round finds nothing
		e.harness.Advance(2*time.Hour + time.Minute)
		e.prune()
		e.hours("that are young enough", keystore.UsageSpan{Key: keys[0].ID}, []keystore.UsageHour{late})
		for _, k := range keys[1:] {
			e.hours("that are too old", keystore.UsageSpan{Key: k.ID}, []keystore.UsageHour{})
		}
	}
	if e.read(keys[1].ID).LastUsedAt.IsZero() {
		e.Fatal("the time of the last use is deleted too")
	}
}

// hours checks the hours of a span, in pages of two and on one page.
func (e *env) hours(what string, span keystore.UsageSpan, want []keystore.UsageHour) {
	e.Helper()
	for _, limit := range []int{2, 1000} {
		got := pages(e, limit, func(ctx context.Context, p keystore.Page) ([]keystore.UsageHour, string, error) {
			return e.KeyUsage(ctx, span, p)
		})
		e.same("hours "+what, got, want)
	}
}

func (e *env) used(d credential.Digest, allowed, denied int64) {
	e.Helper()
	e.ok(e.RecordUsage(e.ctx, "s", []keystore.Usage{{Digest: d, LastUsedAt: e.head().Now, Allowed: allowed, Denied: denied}}))
}

// toNextHour moves the clock to the first minute of an hour, so that the test stays within it.
func (e *env) toNextHour() {
	e.Helper()
	now := e.head().Now
	e.harness.Advance(now.Truncate(time.Hour).Add(time.Hour + time.Second).Sub(now))
}
