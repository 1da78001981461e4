package storetest

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func testSessions(e *env) {
	a := e.account()
	now := e.head().Now
	var s keystore.Session
	got := e.effect(func() { s = e.session(a.ID, time.Hour) })
	if len(got.changes) != 0 {
		e.Fatalf("a session's beginning is in the log: %v", got.changes)
	}
	e.logged(got, now, keystore.Event{Action: keystore.SessionMint, Account: a.ID, Detail: map[string]string{
		"session": s.ID, "expires_at": s.ExpiresAt.Format(time.RFC3339Nano),
	}})
	e.around("created", s.CreatedAt, now)
	e.around("expires", s.ExpiresAt, now.Add(time.Hour))
	e.same("session", s, keystore.Session{
		ID: s.ID, Account: a.ID, Digest: digestOf(s.ID), CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt,
	})
	fact := keystore.Fact{Found: true, Record: credential.Record{
		Kind: credential.Session, ID: s.ID, State: credential.Active, ExpiresAt: s.ExpiresAt,
		Account: credential.Account{ID: a.ID, State: credential.Active},
	}}
	e.same("fact", e.fact(s.Digest), fact)

	e.harness.Advance(time.Minute)
	want := s
	e.one(func() int64 {
		var err error
		s, err = e.EndSession(e.ctx, actor, s.ID)
		e.ok(err)
		return s.Revision
	}, keystore.Change{Digest: s.Digest}, keystore.Event{
		Action: keystore.SessionEnd, Account: a.ID, Detail: map[string]string{"session": s.ID},
	})
	want.Revision = s.Revision
	e.same("session", s, want)
	fact.Record.State = credential.Revoked
	e.same("fact of an ended one", e.fact(s.Digest), fact)

	e.nothing(func() {
		again, err := e.EndSession(e.ctx, actor, s.ID)
		e.ok(err)
		e.same("ended again", again, s)
	})
}

func testSessionRefusals(e *env) {
	a, gone := e.account(), e.terminated()
	s, k := e.session(a.ID, time.Hour), e.key(a.ID)
	refused := func(n keystore.NewSession) error {
		n.TTL = time.Hour
		_, err := e.CreateSession(e.ctx, actor, n)
		return err
	}
	e.nothing(func() {
		e.is(refused(keystore.NewSession{ID: "ses_x", Account: "acc_none", Digest: digestOf("ses_x")}), keystore.ErrNotFound)
		e.conflict(refused(keystore.NewSession{ID: "ses_x", Account: gone.ID, Digest: digestOf("ses_x")}))
		e.conflict(refused(keystore.NewSession{ID: "ses_x", Account: a.ID, Digest: s.Digest}))
		e.conflict(refused(keystore.NewSession{ID: "ses_x", Account: a.ID, Digest: k.Digest}))
		e.conflict(refused(keystore.NewSession{ID: s.ID, Account: a.ID, Digest: digestOf("ses_x")}))
		_, err := e.EndSession(e.ctx, actor, "ses_x")
		e.is(err, keystore.ErrNotFound)
	})
	e.same("found", e.fact(digestOf("ses_x")).Found, false)

	e.setState(a, credential.Terminated)
	e.same("the account's state", e.fact(s.Digest).Record.Account.State, credential.Terminated)
	_, err := e.EndSession(e.ctx, actor, s.ID) // allowed of a terminated account
	e.ok(err)
}

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
	use(at, digestOf("nobody"), k.Digest, s.Digest)
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
