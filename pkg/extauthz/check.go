// Package extauthz checks requests: from what a proxy reports about a request it makes the answer.
// It is independent of Envoy's messages. A transport, in a folder beside this file, reads its wire
// format into a Request and writes the Answer.
//
// A check reads the credential (credential.go), requests its record from the Source, finds the
// requirement of the endpoint, calls policy.Decide (all in check.go) and renders the answer
// (response.go). Explain reports these steps for one request. Apart from
// Source and Usage it does no I/O and takes no lock. Its time is linear in the bytes of the
// credential and of the cookies. It hashes the credential once (SHA-256) and allocates little more
// than the lists of the answer.
package extauthz

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Source provides the facts about credentials. It must be safe for concurrent use.
type Source interface {
	// Lookup returns the record of a digest, or found false if there is none. After an error
	// nothing is known: credential.ErrRateLimited is answered with 429, any other with 503.
	// Lookup must return soon after ctx ends.
	Lookup(ctx context.Context, d credential.Digest) (rec credential.Record, found bool, err error)
	// Cached is Lookup without a wait. Known false means that Lookup must be called.
	Cached(d credential.Digest) (rec credential.Record, found, known bool)
}

// Usage records the checks of keys that have a record. It must be safe for concurrent use.
type Usage interface {
	// Used records one check of a key. It must not block.
	Used(d credential.Digest, allowed bool, at time.Time)
}

// Rules are the part of the configuration that decides checks. A Checker's rules must not be
// changed; SetRules replaces them.
type Rules struct {
	SessionScopes credential.Scopes // every session has them in addition to its own
	Endpoints     policy.Endpoints  // for requests whose route names no requirement
	Origin        string            // of the web app
	CookieName    string            // of the session
	RefuseForeign bool              // deny credentials without our prefixes without a look-up
	Shadow        bool              // decide, count and report, but always allow
	KeyAPITimeout time.Duration     // of one resolve request to the key API
}

// minLimit is the least time after a check's arrival in which it may be allowed. Larger lets a
// process that was frozen allow requests on older facts; smaller answers 503 when the machine is
// merely busy.
const minLimit = time.Second

// limit returns the time after a check's arrival in which it may be allowed.
func (r *Rules) limit() time.Duration { return max(minLimit, 2*r.KeyAPITimeout) }

// Request is a proxy's report about a request. The zero Request has no credential and is denied. A
// header's slice has one element for each value that the proxy sent, also for an empty one; a proxy
// may have joined repeated values with ','.
type Request struct {
	// Arrived is when the process received the proxy's message; zero means when the check began.
	Arrived time.Time

	Method, Host string
	Path         string // with the query, as the proxy sent it
	Authorization,
	Cookie,
	Origin,
	SecFetchSite,
	ContentType []string
	// Reserved holds the names of the client's headers for which credential.IsReserved is true,
	// as the client sent them.
	Reserved []string

	Route RouteRequirement
	// Required is the requirement of Route, if the transport has parsed it in advance.
	Required *policy.Requirement
}

// RouteRequirement is the requirement in the context extensions of the proxy's matched route. Set
// reports whether they have a scope or a principal. An empty Scope requires no scope.
// Without HasPrincipal the principal is any; an empty Principal is invalid.
type RouteRequirement struct {
	Set, HasPrincipal bool
	Scope, Principal  string
}

// Checker answers checks. It is safe for concurrent use.
type Checker struct {
	source  Source
	usage   Usage
	metrics *Metrics
	rules   atomic.Pointer[Rules]
}

// NewChecker makes a checker.
func NewChecker(source Source, usage Usage, rules *Rules, metrics *Metrics) *Checker {
	c := &Checker{source: source, usage: usage, metrics: metrics}
	c.rules.Store(rules)
	return c
}

// SetRules replaces the rules for all checks that begin later.
func (c *Checker) SetRules(rules *Rules) { c.rules.Store(rules) }

// KeyAPITimeout returns the time limit of one resolve request, by the current rules.
func (c *Checker) KeyAPITimeout() time.Duration { return c.rules.Load().KeyAPITimeout }

// Shadow reports whether the current rules always allow.
func (c *Checker) Shadow() bool { return c.rules.Load().Shadow }

// Metrics returns the checker's metrics, in which a transport counts the messages that it rejects.
func (c *Checker) Metrics() *Metrics { return c.metrics }

// answerMargin is the time between the end of a look-up and the earlier of the caller's deadline
// and the limit of an allow. Smaller lets Envoy's timer fire before our 503 arrives, so that Envoy
// answers instead; larger ends look-ups early.
const answerMargin = 20 * time.Millisecond

// Check decides and answers a request. It returns answerMargin before ctx's deadline or the limit
// of an allow at the latest, if Source obeys its context.
func (c *Checker) Check(ctx context.Context, req *Request) Answer {
	outcome := c.Decide(ctx, req)
	return outcome.Answer()
}

// Outcome is a check that is decided and not yet answered. The zero Outcome is answered as
// Failed.
type Outcome struct {
	checker  *Checker
	rules    *Rules
	req      *Request
	cred     presented
	decision policy.Decision
	lists    lists
}

// Decide is Check without the answer. The Outcome refers to req.
func (c *Checker) Decide(ctx context.Context, req *Request) Outcome {
	o, decided := c.Begin(req)
	if !decided {
		o.Finish(ctx)
	}
	return o
}

// Begin decides a check that needs no wait. If decided is false, the Outcome is unavailable until
// Finish is called. It refers to req.
func (c *Checker) Begin(req *Request) (o Outcome, decided bool) {
	if req.Arrived.IsZero() {
		req.Arrived = time.Now()
	}
	o = Outcome{checker: c, rules: c.rules.Load(), req: req}
	cred, reason := o.rules.credentialOf(req)
	if reason != policy.OK {
		o.decision = policy.Deny(reason)
		return o, true
	}
	o.cred = cred
	rec, found, known := c.source.Cached(cred.digest)
	if !known {
		o.decision = policy.Deny(policy.Unavailable)
		return o, false
	}
	o.decide(rec, found)
	return o, true
}

// Finish looks up the credential of a check that Begin has not decided, and decides it. It returns
// answerMargin before ctx's deadline or the limit of an allow at the latest, if Source obeys its
// context.
func (o *Outcome) Finish(ctx context.Context) { o.conclude(o.lookUp(ctx)) }

// LooksUp reports whether the request has a credential whose record decides it. Others are decided
// without one.
func (o *Outcome) LooksUp() bool { return o.cred.digest != (credential.Digest{}) }

// lookUp requests the record within the time that is left for the check.
func (o *Outcome) lookUp(ctx context.Context) (rec credential.Record, found bool, err error) {
	deadline := o.req.Arrived.Add(o.rules.limit())
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(-answerMargin))
	defer cancel()
	o.checker.metrics.waiting.Inc()
	defer o.checker.metrics.waiting.Dec()
	return o.checker.source.Lookup(ctx, o.cred.digest)
}

// conclude decides by the result of a look-up.
func (o *Outcome) conclude(rec credential.Record, found bool, err error) {
	switch {
	case errors.Is(err, credential.ErrRateLimited):
		o.decision = policy.Deny(policy.RateLimited)
	case err != nil:
		o.decision = policy.Deny(policy.Unavailable)
	default:
		o.decide(rec, found)
	}
}

// decide decides by the record of the credential.
func (o *Outcome) decide(rec credential.Record, found bool) {
	if o.cred.kind == credential.Session {
		rec.Scopes = rec.Scopes.With(o.rules.SessionScopes)
	}
	o.decision = policy.Decide(o.cred.kind, rec, found, o.rules.requirementOf(o.req), time.Now())
}

// Fail returns the outcome of a check that panicked: unavailable, and in shadow mode an allow as
// always.
func (c *Checker) Fail(req *Request) Outcome {
	return Outcome{checker: c, rules: c.rules.Load(), req: req, decision: policy.Deny(policy.Unavailable)}
}

// Answer renders the outcome and counts it. It must be called once, as late as possible before the
// answer is written, because an allow that is late by then becomes unavailable. The answer refers to the
// Outcome's memory.
func (o *Outcome) Answer() Answer {
	if o.checker == nil {
		return Failed()
	}
	c, now := o.checker, time.Now()
	if o.withdraw(now) {
		c.metrics.late.Inc()
	}
	c.metrics.observe(o.decision, o.rules.Shadow, now.Sub(o.req.Arrived))
	if o.decision.Kind == credential.Key { // only with a record
		c.usage.Used(o.cred.digest, o.decision.Allowed(), now)
	}
	return o.rules.answer(o.req, o.decision, &o.lists)
}

// withdraw makes an allow that is late at now unavailable, and reports whether it was one.
func (o *Outcome) withdraw(now time.Time) bool {
	late := o.decision.Allowed() && elapsed(o.req.Arrived, now) > o.rules.limit()
	if late {
		o.decision = o.decision.Withdraw()
	}
	return late
}

// elapsed returns the longer of the times that the monotonic and the wall clock measured. Linux's
// monotonic clock stops while the machine is suspended. The price: if the wall clock is set forward
// by more than the limit during a check, the check is answered with 503 although it is not late.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// requirementOf returns the requirement of the matched route, else of the table.
func (r *Rules) requirementOf(req *Request) policy.Requirement {
	switch {
	case req.Required != nil:
		return *req.Required
	case req.Route.Set:
		return req.Route.Parse()
	}
	return r.Endpoints.Match(req.Method, req.Host, req.Path)
}

// Parse returns the requirement of a route that names one. An invalid one is the zero Requirement,
// which no credential meets.
func (r RouteRequirement) Parse() policy.Requirement {
	principal := policy.Any
	if r.HasPrincipal || r.Principal != "" {
		var ok bool
		if principal, ok = policy.ParsePrincipal(r.Principal); !ok {
			return policy.Requirement{}
		}
	}
	return policy.NewRequirement(principal, r.Scope)
}
