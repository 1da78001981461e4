package explain

import (
	"errors"
	"mime"
	"net/http"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// maxRequest is the size of a request in bytes. Envoy accepts paths of some 60 KiB. Larger costs memory
// if a client misbehaves.
const maxRequest = 128 << 10

// Handler returns the handler of POST Path. Inspect returns the state of the cache for a digest. Only
// local clients may reach it: who knows a digest learns the record.
func Handler(checker *extauthz.Checker, inspect func(credential.Digest) Cache) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := serve(w, r, checker, inspect)
		status, body := http.StatusOK, any(answer)
		if err != nil {
			rejected := httpapi.Errorf(http.StatusBadRequest, "body cannot be read")
			if known, ok := errors.AsType[*httpapi.Error](err); ok {
				rejected = known
			}
			status, body = rejected.Status, map[string]string{"message": rejected.Message}
		}
		text, err := httpapi.Encode(body)
		if err != nil {
			http.Error(w, "the explanation cannot be encoded", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, _ = w.Write(text)
	})
}

func serve(w http.ResponseWriter, r *http.Request, checker *extauthz.Checker, inspect func(credential.Digest) Cache) (*Explanation, error) {
	// A page in a browser cannot send this type to another origin without a preflight, which fails.
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, httpapi.Errorf(http.StatusUnsupportedMediaType, "content-type must be application/json")
	}
	body, err := httpapi.ReadBody(http.MaxBytesReader(w, r.Body, maxRequest), maxRequest)
	if err != nil {
		return nil, err
	}
	var asked Request
	if err := httpapi.DecodeBody(body, &asked); err != nil {
		return nil, err
	}
	presented, err := asked.Credential.presented()
	if err != nil {
		return nil, err
	}
	if asked.Path == "" || asked.Method == "" {
		return nil, httpapi.BadRequest("path and method", "must be given")
	}
	state := inspect(presented.Digest)
	if presented.Digest == (credential.Digest{}) {
		state.Entry = nil
	}
	began := time.Now()
	e := checker.Explain(r.Context(), asked.check(), presented)
	took := time.Since(began)
	return explanation(asked, presented, state, e, lookUp(state, inspect(presented.Digest), e, took)), nil
}

// presented is the credential as the check sees it.
func (c *Credential) presented() (p extauthz.Presented, err error) {
	if c == nil {
		return p, nil
	}
	switch c.Kind {
	case credential.Key.String():
		p.Kind = credential.Key
	case credential.Session.String():
		p.Kind = credential.Session
	default:
		return p, httpapi.BadRequest("credential.kind", "must be key or session")
	}
	p.Shape = credential.Malformed
	if c.Format == Invalid {
		return p, nil
	}
	known := false
	for shape, name := range formats {
		if name == c.Format {
			p.Shape, known = shape, true
		}
	}
	if !known {
		return p, httpapi.BadRequest("credential.format", "must be key, session, foreign, malformed or invalid")
	}
	if p.Digest, err = credential.ParseDigest(c.SHA256); err != nil {
		return p, httpapi.BadRequest("credential.sha256", "%v", err)
	}
	p.Valid = true
	return p, nil
}

// check is the request as the check sees it, without a credential.
func (r Request) check() *extauthz.Request {
	check := &extauthz.Request{Method: r.Method, Host: r.Host, Path: r.Path}
	if r.Origin != "" {
		check.Origin = []string{r.Origin}
	}
	if r.SecFetchSite != "" {
		check.SecFetchSite = []string{r.SecFetchSite}
	}
	if q := r.Requirement; q != nil && (q.Scope != nil || q.Principal != nil) {
		check.Route.Set = true
		if q.Scope != nil {
			check.Route.Scope = *q.Scope
		}
		if q.Principal != nil {
			check.Route.HasPrincipal, check.Route.Principal = true, *q.Principal
		}
	}
	return check
}

func explanation(asked Request, p extauthz.Presented, state Cache, e extauthz.Explanation, l LookUp) *Explanation {
	x := &Explanation{
		At: time.Now().UTC(), Decision: "deny", Reason: e.Decision.Reason.String(), Shadow: e.Shadow, Late: e.Late, Cache: state,
		LookUp:      l,
		Requirement: StatedRequirement{Source: string(e.Source), Principal: principalName(e.Requirement.Principal), Scopes: e.Requirement.Scopes()},
		Answer:      Answer{Allow: e.Answer.Allow, Status: http.StatusOK, GRPCCode: e.Answer.Code, Body: e.Answer.Body, Headers: map[string]string{}},
	}
	if e.Decision.Allowed() {
		x.Decision = "allow"
	}
	if !e.Answer.Allow {
		x.Answer.Status = e.Answer.Status
	}
	for _, h := range e.Answer.Set {
		x.Answer.Headers[h.Name] = h.Value
	}
	if asked.Credential != nil {
		x.Credential = &Presented{Kind: asked.Credential.Kind, Format: asked.Credential.Format}
		if p.Valid {
			x.Credential.Digest = p.Digest.String()
		}
	}
	if e.Found {
		x.Record = record(e.Record)
	}
	return x
}

func record(r credential.Record) *Record {
	out := &Record{
		Kind: r.Kind.String(), ID: r.ID, State: r.State.String(),
		Account: r.Account.ID, AccountState: r.Account.State.String(), Scopes: r.Scopes.List(),
	}
	if !r.ExpiresAt.IsZero() {
		out.ExpiresAt = &r.ExpiresAt
	}
	return out
}

// lookUp says how the facts were found, by the states of the cache before and after.
func lookUp(before, after Cache, e extauthz.Explanation, took time.Duration) LookUp {
	l := LookUp{Result: Resolved, TookMS: took.Milliseconds()}
	switch {
	case !e.Accepted:
		l.Result = NotNeeded
	case errors.Is(e.Err, credential.ErrRateLimited):
		l.Result, l.Error = RateLimited, e.Err.Error()
	case e.Err != nil:
		l.Result, l.Error = Failed, e.Err.Error()
	case before.Entry == nil:
	case before.Entry.Freshness != "stale":
		l.Result = Hit
	case after.Entry != nil && after.Entry.AgeMS >= before.Entry.AgeMS: // not revalidated
		l.Result = ServedStale
	}
	return l
}

func principalName(p policy.Principal) string {
	return map[policy.Principal]string{policy.Any: "any", policy.KeyOnly: "key", policy.SessionOnly: "session"}[p]
}
