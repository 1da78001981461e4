package extauthz

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Source knows the facts about credentials.
type Source interface {
	// Lookup returns the record of a digest, or found false if nobody knows it. With an
	// error nothing was learned: credential.ErrRateLimited is answered 429, every other
	// one 503.
	// It returns soon after ctx ends. Safe for concurrent use.
	Lookup(ctx context.Context, d credential.Digest) (rec credential.Record, found bool, err error)
}

// Usage is told of every check of a key that is known.
type Usage interface {
	// Used notes that the key was judged at that moment. It returns at once. Safe for
	// concurrent use.
	Used(d credential.Digest, allowed bool, at time.Time)
}

// Rules are what of the configuration bears on a check. They are immutable once
// given to a Checker; SetRules replaces them as a whole.
type Rules struct {
	Judge         policy.Judge
	Endpoints     policy.Endpoints // asked where the route says nothing
	Origin        string           // of the web app
	CookieName    string           // of the session
	RefuseForeign bool             // credentials without our prefixes are unknown without a look-up
	Shadow        bool             // decide, count and report, but always allow
	KeyAPITimeout time.Duration    // of one resolve; twice as much is the limit of an answer if that is more than minLimit
}

// minLimit is the least time after a check's arrival in which the check may be allowed. A larger
// value lets a process that was frozen allow requests on older facts; a smaller one answers 503
// when the machine is merely busy.
const minLimit = time.Second

// limit is how long after its arrival a check may be allowed.
func (r *Rules) limit() time.Duration { return max(minLimit, 2*r.KeyAPITimeout) }

// Checker answers checks. It is safe for concurrent use.
type Checker struct {
	source  Source
	usage   Usage
	metrics *Metrics
	rules   atomic.Pointer[Rules]
}

// NewChecker makes a checker that asks source and tells usage.
func NewChecker(source Source, usage Usage, rules *Rules, metrics *Metrics) *Checker {
	c := &Checker{source: source, usage: usage, metrics: metrics}
	c.rules.Store(rules)
	return c
}

// SetRules replaces the rules for every check that begins from now on.
func (c *Checker) SetRules(rules *Rules) { c.rules.Store(rules) }

// Metrics returns the metrics that the checker counts in, so that a front can count what it
// refuses before it is a check.
func (c *Checker) Metrics() *Metrics { return c.metrics }

// Outcome is a check that is decided and not yet answered. The zero Outcome is answered as
// Failed.
type Outcome struct {
	checker  *Checker
	rules    *Rules
	req      *Request
	digest   credential.Digest // of a key that is known
	decision policy.Decision
}

// answerMargin is kept of the caller's deadline and of the limit of an answer: our own 503 must
// reach Envoy before its timer fires, or it answers in our place.
const answerMargin = 20 * time.Millisecond

// Check decides and answers one request. It always returns an answer, at the latest shortly
// before ctx's deadline or the limit of an answer.
func (c *Checker) Check(ctx context.Context, req *Request) Answer {
	outcome := c.Decide(ctx, req)
	return outcome.Answer()
}

// Decide decides one request, which the Outcome refers to. It returns at the latest shortly
// before ctx's deadline or the limit of an answer.
func (c *Checker) Decide(ctx context.Context, req *Request) Outcome {
	if req.Arrived.IsZero() {
		req.Arrived = time.Now()
	}
	o := Outcome{checker: c, rules: c.rules.Load(), req: req}
	o.decide(ctx)
	return o
}

// Fail returns the outcome of a check that ended in a panic: the row "unavailable". In shadow
// mode it lets the request pass, as every other outcome does.
func (c *Checker) Fail(req *Request) Outcome {
	return Outcome{checker: c, rules: c.rules.Load(), req: req, decision: policy.Deny(policy.Unavailable)}
}

func (o *Outcome) decide(ctx context.Context) {
	cred, reason := o.rules.credentialOf(o.req)
	if reason != policy.OK {
		o.decision = policy.Deny(reason)
		return
	}
	deadline := o.req.Arrived.Add(o.rules.limit())
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(-answerMargin))
	defer cancel()
	rec, found, err := o.checker.source.Lookup(ctx, cred.digest)
	switch {
	case errors.Is(err, credential.ErrRateLimited):
		o.decision = policy.Deny(policy.RateLimited)
		return
	case err != nil:
		o.decision = policy.Deny(policy.Unavailable)
		return
	}
	o.decision = o.rules.Judge.Decide(cred.kind, rec, found, o.rules.requirementOf(o.req), time.Now())
	o.digest = cred.digest
}

// Answer renders the outcome and counts it. It must be called once, as late as possible before
// the answer is written, because it judges there whether the answer is too late for an allow.
func (o *Outcome) Answer() Answer {
	if o.checker == nil {
		return Failed()
	}
	c, now := o.checker, time.Now()
	if o.decision.Allowed() && elapsed(o.req.Arrived, now) > o.rules.limit() {
		o.decision = o.decision.Withdraw()
		c.metrics.late.Inc()
	}
	c.metrics.observe(o.decision.Reason, o.rules.Shadow, now.Sub(o.req.Arrived))
	if o.decision.Kind == credential.Key {
		c.usage.Used(o.digest, o.decision.Allowed(), now)
	}
	return o.rules.answer(o.req, o.decision)
}

// elapsed is the time from a moment until now by the clock that counts more. Linux's monotonic
// clock does not count the time in which the machine is suspended. The wall clock may be set: if
// it is set forward by more than the limit during a check, the check is answered 503 although it
// is not late.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// requirementOf finds what the endpoint asks for: what the proxy's matched route
// says, else what the table says.
func (r *Rules) requirementOf(req *Request) policy.Requirement {
	if !req.Route.Set {
		return r.Endpoints.Match(req.Method, req.Host, req.Path)
	}
	principal := policy.Any
	if req.Route.HasPrincipal || req.Route.Principal != "" {
		var ok bool
		if principal, ok = policy.ParsePrincipal(req.Route.Principal); !ok {
			return policy.Requirement{}
		}
	}
	return policy.NewRequirement(principal, req.Route.Scope)
}
