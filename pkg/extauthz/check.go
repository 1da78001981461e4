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
}

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

// answerMargin is kept of the caller's deadline: our own 503 must reach Envoy before
// its timer fires, or it answers in our place.
const answerMargin = 20 * time.Millisecond

// Check decides one request. It always returns an answer, at the latest shortly
// before ctx's deadline.
func (c *Checker) Check(ctx context.Context, req *Request) Answer {
	begin := time.Now()
	rules := c.rules.Load()
	d := c.decide(ctx, rules, req, begin)
	c.metrics.observe(d.Reason, rules.Shadow, time.Since(begin))
	return rules.answer(req, d)
}

func (c *Checker) decide(ctx context.Context, rules *Rules, req *Request, now time.Time) policy.Decision {
	cred, reason := rules.credentialOf(req)
	if reason != policy.OK {
		return policy.Deny(reason)
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerMargin))
		defer cancel()
	}
	rec, found, err := c.source.Lookup(ctx, cred.digest)
	switch {
	case errors.Is(err, credential.ErrRateLimited):
		return policy.Deny(policy.RateLimited)
	case err != nil:
		return policy.Deny(policy.Unavailable)
	}
	d := rules.Judge.Decide(cred.kind, rec, found, rules.requirementOf(req), now)
	if d.Kind == credential.Key {
		c.usage.Used(cred.digest, d.Allowed(), now)
	}
	return d
}

// requirementOf finds what the endpoint asks for: what the proxy's matched route
// says, else what the table says.
func (r *Rules) requirementOf(req *Request) policy.Requirement {
	if !req.Route.Set {
		return r.Endpoints.Match(req.Method, req.Host, req.Path)
	}
	principal, ok := policy.ParsePrincipal(req.Route.Principal)
	if !ok {
		return policy.Requirement{}
	}
	return policy.NewRequirement(principal, req.Route.Scope)
}
