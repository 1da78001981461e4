package storetest

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// testUsageHours: what was reported is counted in the hour of the report, and read back by
// the key, latest first.
func testUsageHours(e *env) {
	a, b := e.account(), e.account()
	k, other := e.key(a.ID), e.key(a.ID)
	e.same("of a key that nobody used", e.hours(keystore.UsageSpan{Key: k.ID}), []keystore.UsageHour{})
	var want []keystore.UsageHour // latest first
	for i := range int64(5) {
		e.toNextHour()
		e.used(k.Digest, 10+i, i)
		e.used(k.Digest, 1, 0)
		e.used(other.Digest, 100, 100)
		e.used(digestOf("nobody"), 7, 7)
		want = append([]keystore.UsageHour{{Hour: e.head().Now.Truncate(time.Hour), Allowed: 11 + i, Denied: i}}, want...)
	}
	e.nothing(func() { e.used(k.Digest, 0, 0) })
	span := keystore.UsageSpan{Key: k.ID}
	e.same("all hours", e.hours(span), want)
	span.Account = a.ID
	e.same("all hours of one's own key", e.hours(span), want)
	span.From = want[3].Hour
	e.same("from an hour on", e.hours(span), want[:4])
	span.From = want[3].Hour.Add(1)
	e.same("from a moment within an hour on", e.hours(span), want[:3])
	span.Until = want[0].Hour
	e.same("until an hour", e.hours(span), want[1:3])
	span.Until = want[0].Hour.Add(1)
	e.same("until a moment within an hour", e.hours(span), want[:3])
	span.Until = span.From
	e.same("in no time", e.hours(span), []keystore.UsageHour{})

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

// testUsageRetention: the hours that are too old go, of every key, and no others.
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
	late := e.head().Now.Truncate(time.Hour)
	e.ok(e.Prune(e.ctx, time.Hour))
	e.same("before their time", e.hours(keystore.UsageSpan{Key: keys[0].ID}), []keystore.UsageHour{{Hour: late, Allowed: 2}, {Hour: hour, Allowed: 1}})
	for range 2 { // another round finds them all gone
		e.harness.Advance(2*time.Hour + time.Minute)
		revision, events := e.head().Revision, len(e.events())
		e.ok(e.Prune(e.ctx, time.Hour))
		e.same("revision", e.head().Revision, revision)
		e.same("events", len(e.events()), events)
		e.same("what is young enough", e.hours(keystore.UsageSpan{Key: keys[0].ID}), []keystore.UsageHour{{Hour: late, Allowed: 2}})
		for _, k := range keys[1:] {
			e.same("too old", e.hours(keystore.UsageSpan{Key: k.ID}), []keystore.UsageHour{})
		}
	}
	k, err := e.Key(e.ctx, keys[1].ID)
	e.ok(err)
	if k.LastUsedAt.IsZero() {
		e.Fatal("when it was last used is forgotten, too")
	}
}

// hours reads all of a span, in pages of two, and again in one.
func (e *env) hours(span keystore.UsageSpan) []keystore.UsageHour {
	e.Helper()
	whole, next, err := e.KeyUsage(e.ctx, span, keystore.Page{Limit: 1000})
	e.ok(err)
	e.same("what follows all", next, "")
	pages := []keystore.UsageHour{}
	page := keystore.Page{Limit: 2}
	for {
		part, next, err := e.KeyUsage(e.ctx, span, page)
		e.ok(err)
		pages = append(pages, part...)
		if next == "" {
			break
		}
		page.After = next
	}
	e.same("in pages", pages, whole)
	return whole
}

func (e *env) used(d credential.Digest, allowed, denied int64) {
	e.Helper()
	e.ok(e.RecordUsage(e.ctx, "s", []keystore.Usage{{Digest: d, LastUsedAt: e.head().Now, Allowed: allowed, Denied: denied}}))
}

// toNextHour moves the clock to the first minute of an hour, so that a test stays within it.
func (e *env) toNextHour() {
	e.Helper()
	now := e.head().Now
	e.harness.Advance(now.Truncate(time.Hour).Add(time.Hour + time.Second).Sub(now))
}
