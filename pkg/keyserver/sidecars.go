package keyserver

import (
	"context"
	"net/http"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

func (s *Server) sidecarRoutes() []route {
	return []route{
		{method: http.MethodPost, path: sidecarapi.ResolvePath, do: s.resolve},
		{method: http.MethodPost, path: sidecarapi.ChangesPath, do: s.changes},
		{method: http.MethodPost, path: sidecarapi.UsagePath, do: s.reportUsage, limit: maxUsage},
	}
}

const digestRule = "must be 64 lower-case hexadecimal digits"

func (s *Server) resolve(ctx context.Context, c *call) (answer, error) {
	var ask sidecarapi.ResolveRequest
	if err := decode(c.body, &ask); err != nil {
		return answer{}, err
	}
	if n := len(ask.Credentials); n < 1 || n > sidecarapi.MaxResolve {
		return answer{}, badRequest("credentials", "must have 1 to %d digests", sidecarapi.MaxResolve)
	}
	digests := make([]credential.Digest, len(ask.Credentials))
	for i, hex := range ask.Credentials {
		var err error
		if digests[i], err = credential.ParseDigest(hex); err != nil {
			return answer{}, badRequest(nth("credentials", i, ""), digestRule)
		}
	}
	head, facts, err := s.store.Resolve(ctx, digests)
	if err != nil {
		return answer{}, err
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
	return ok(sidecarapi.ResolveResponse{Epoch: head.Epoch, Revision: head.Revision, Credentials: results})
}
