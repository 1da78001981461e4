package extauthz

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Presented is a credential without its plaintext. The zero Presented is none.
type Presented struct {
	Kind   credential.Kind
	Valid  bool // the value has the syntax of its place
	Shape  credential.Shape
	Digest credential.Digest
}

// Present returns what a request presents that has the plaintext in the place of its kind: as Bearer, or
// as the only session cookie. An empty session is none, as an empty cookie is.
func Present(kind credential.Kind, plaintext credential.Secret) Presented {
	text := plaintext.Reveal()
	p := Presented{Kind: kind, Shape: credential.Malformed}
	switch {
	case kind == credential.Session && text == "":
		return Presented{}
	case kind == credential.Session:
		p.Valid = isSessionValue(text)
	default:
		p.Valid = isKeyValue(text)
	}
	if p.Valid {
		p.Shape, p.Digest = credential.ShapeOf(text), plaintext.Digest()
	}
	return p
}

// RequirementSource says where the requirement of a request comes from.
type RequirementSource string

// The sources.
const (
	FromRoute     RequirementSource = "route"
	FromEndpoints RequirementSource = "endpoints"
	FromNowhere   RequirementSource = "none"
)

// Explanation is a decision with what it rests on.
type Explanation struct {
	Accepted    bool // a look-up was needed: place, syntax and format alone did not decide
	Waited      bool // the cache could not answer without a wait
	Err         error
	Found       bool
	Record      credential.Record // with the scopes of every session
	Requirement policy.Requirement
	Source      RequirementSource
	Decision    policy.Decision
	Late        bool // an allow that took too long
	Shadow      bool
	Answer      Answer
}

// Explain decides a request as Check does, with the same steps, and reports them. In place of the headers
// of req, p is the credential. A record that is not cached is looked up. It counts neither as a check
// nor as a use of the key.
func (c *Checker) Explain(ctx context.Context, req *Request, p Presented) Explanation {
	if req.Arrived.IsZero() {
		req.Arrived = time.Now()
	}
	o := Outcome{checker: c, rules: c.rules.Load(), req: req}
	e := Explanation{Requirement: o.rules.requirementOf(req), Source: o.rules.sourceOf(req), Shadow: o.rules.Shadow}
	if reason := o.rules.accept(req, p.Kind, p.Valid, p.Shape); reason != policy.OK {
		o.decision = policy.Deny(reason)
	} else {
		o.cred = presented{p.Kind, p.Digest}
		e.Accepted = true
		o.explain(ctx, &e)
	}
	e.Late = o.withdraw(time.Now())
	e.Decision = o.decision
	e.Answer = o.rules.answer(req, o.decision, &o.lists)
	return e
}

// explain looks up the record, and decides by it.
func (o *Outcome) explain(ctx context.Context, e *Explanation) {
	rec, found, known := o.checker.source.Cached(o.cred.digest)
	if !known {
		e.Waited = true
		rec, found, e.Err = o.lookUp(ctx)
	}
	o.conclude(rec, found, e.Err)
	if e.Err != nil || !found {
		return
	}
	if o.cred.kind == credential.Session {
		rec.Scopes = rec.Scopes.With(o.rules.SessionScopes)
	}
	e.Found, e.Record = true, rec
}

// sourceOf returns where requirementOf finds the requirement.
func (r *Rules) sourceOf(req *Request) RequirementSource {
	switch {
	case req.Required != nil || req.Route.Set:
		return FromRoute
	case r.Endpoints.Match(req.Method, req.Host, req.Path).Principal != policy.NoPrincipal:
		return FromEndpoints
	}
	return FromNowhere
}
