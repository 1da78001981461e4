package keyserver

import (
	"context"
	"net/http"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keyapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// maxUsage holds a report of keyapi.MaxUsed credentials.
const maxUsage = 4 << 20

func (s *Server) sidecarRoutes() []route {
	return []route{
		{method: http.MethodPost, path: keyapi.ResolvePath, do: s.resolve},
		{method: http.MethodPost, path: keyapi.ChangesPath, do: s.changes},
		{method: http.MethodPost, path: keyapi.UsagePath, do: s.usage, limit: maxUsage},
	}
}

const digestRule = "must be 64 lower-case hexadecimal digits"

func (s *Server) resolve(ctx context.Context, c *call) (answer, error) {
	var ask keyapi.ResolveRequest
	if err := decode(c.body, &ask); err != nil {
		return answer{}, err
	}
	if n := len(ask.Credentials); n < 1 || n > keyapi.MaxResolve {
		return answer{}, badRequest("credentials", "must have 1 to %d digests", keyapi.MaxResolve)
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
	results := make([]keyapi.Credential, len(facts))
	found := 0
	for i, fact := range facts {
		results[i] = keyapi.CredentialOf(digests[i], fact.Found, fact.Record)
		if fact.Found {
			found++
		}
	}
	s.metrics.resolved.WithLabelValues("true").Add(float64(found))
	s.metrics.resolved.WithLabelValues("false").Add(float64(len(facts) - found))
	return ok(keyapi.ResolveResponse{Epoch: head.Epoch, Revision: head.Revision, Credentials: results})
}

// usage takes a report. Its times are the sidecars' own; the store passes over those
// that cannot be.
func (s *Server) usage(ctx context.Context, c *call) (answer, error) {
	var report struct {
		Sidecar *string `json:"sidecar"`
		Used    []struct {
			SHA256     string     `json:"sha256"`
			LastUsedAt *time.Time `json:"last_used_at"`
			Allowed    int64      `json:"allowed"`
			Denied     int64      `json:"denied"`
		} `json:"used"`
	}
	if err := decode(c.body, &report); err != nil {
		return answer{}, err
	}
	if err := checkText("sidecar", report.Sidecar, keyapi.MaxSidecar); err != nil {
		return answer{}, err
	}
	if report.Used == nil || len(report.Used) > keyapi.MaxUsed {
		return answer{}, badRequest("used", "must be a list of at most %d", keyapi.MaxUsed)
	}
	used := make([]keystore.Usage, len(report.Used))
	for i, u := range report.Used {
		digest, err := credential.ParseDigest(u.SHA256)
		switch {
		case err != nil:
			return answer{}, badRequest(nth("used", i, ".sha256"), digestRule)
		case u.LastUsedAt == nil:
			return answer{}, badRequest(nth("used", i, ".last_used_at"), "is required")
		case u.Allowed < 0:
			return answer{}, badRequest(nth("used", i, ".allowed"), "must not be negative")
		case u.Denied < 0:
			return answer{}, badRequest(nth("used", i, ".denied"), "must not be negative")
		}
		used[i] = keystore.Usage{Digest: digest, LastUsedAt: u.LastUsedAt.UTC(), Allowed: u.Allowed, Denied: u.Denied}
	}
	if err := s.store.RecordUsage(ctx, *report.Sidecar, used); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}
