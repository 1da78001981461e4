package keyserver

import (
	"context"
	"fmt"
	"net/http"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// maxUsageBody has room for sidecarapi.MaxUsed credentials.
const maxUsageBody = 4 << 20

func (s *Server) sidecarRoutes() []route {
	return []route{
		{Method: http.MethodPost, Path: sidecarapi.ResolvePath, Do: withBody(s.resolve)},
		{Method: http.MethodPost, Path: sidecarapi.ChangesPath, Do: withBody(s.changes)},
		{Method: http.MethodPost, Path: sidecarapi.UsagePath, Do: withBody(s.reportUsage), MaxBody: maxUsageBody},
	}
}

func (s *Server) resolve(ctx context.Context, _ *call, body sidecarapi.ResolveRequest) (httpapi.Response, error) {
	if n := len(body.Credentials); n < 1 || n > sidecarapi.MaxResolve {
		return httpapi.Response{}, httpapi.BadRequest("credentials", "must have 1 to %d digests", sidecarapi.MaxResolve)
	}
	digests := make([]credential.Digest, len(body.Credentials))
	for i, hex := range body.Credentials {
		var err error
		if digests[i], err = parseDigest(fmt.Sprintf("credentials[%d]", i), hex); err != nil {
			return httpapi.Response{}, err
		}
	}
	head, facts, err := s.store.Resolve(ctx, digests)
	if err != nil {
		return httpapi.Response{}, err
	}
	results := make([]sidecarapi.Credential, len(facts))
	found := 0
	for i, fact := range facts {
		results[i] = sidecarapi.CredentialOf(digests[i], fact.Found, fact.Record)
		if fact.Found {
			found++
		}
	}
	s.metrics.resolved.WithLabelValues("true").Add(float64(found))
	s.metrics.resolved.WithLabelValues("false").Add(float64(len(facts) - found))
	return httpapi.OK(sidecarapi.ResolveResponse{Epoch: head.Epoch, Revision: head.Revision, Credentials: results})
}

// reportUsage records a report. Its times are from the sidecars' clocks; the store ignores impossible ones.
func (s *Server) reportUsage(ctx context.Context, _ *call, body sidecarapi.UsageRequest) (httpapi.Response, error) {
	if err := checkText("sidecar", body.Sidecar, sidecarapi.MaxSidecar); err != nil {
		return httpapi.Response{}, err
	}
	if body.Used == nil || len(body.Used) > sidecarapi.MaxUsed {
		return httpapi.Response{}, httpapi.BadRequest("used", "must be a list of at most %d", sidecarapi.MaxUsed)
	}
	used := make([]keystore.Usage, len(body.Used))
	for i, u := range body.Used {
		entry := fmt.Sprintf("used[%d].", i)
		digest, err := parseDigest(entry+"sha256", u.SHA256)
		switch {
		case err != nil:
			return httpapi.Response{}, err
		case u.LastUsedAt.IsZero():
			return httpapi.Response{}, httpapi.BadRequest(entry+"last_used_at", "is required")
		case u.Allowed < 0:
			return httpapi.Response{}, httpapi.BadRequest(entry+"allowed", "must not be negative")
		case u.Denied < 0:
			return httpapi.Response{}, httpapi.BadRequest(entry+"denied", "must not be negative")
		}
		used[i] = keystore.Usage{Digest: digest, LastUsedAt: u.LastUsedAt.UTC(), Allowed: u.Allowed, Denied: u.Denied}
	}
	if err := s.store.RecordUsage(ctx, body.Sidecar, used); err != nil {
		return httpapi.Response{}, err
	}
	return httpapi.Response{Status: http.StatusNoContent}, nil
}
