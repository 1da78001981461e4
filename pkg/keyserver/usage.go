package keyserver

import (
	"context"
	"net/http"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// maxUsage holds a report of sidecarapi.MaxUsed credentials.
const maxUsage = 4 << 20

const (
	fromParam  = "from"
	untilParam = "until"
)

var spans = []string{fromParam, untilParam}

// reportUsage takes a report. Its times are the sidecars' own; the store passes over those
// that cannot be.
func (s *Server) reportUsage(ctx context.Context, c *call) (answer, error) {
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
	if err := checkText("sidecar", report.Sidecar, sidecarapi.MaxSidecar); err != nil {
		return answer{}, err
	}
	if report.Used == nil || len(report.Used) > sidecarapi.MaxUsed {
		return answer{}, badRequest("used", "must be a list of at most %d", sidecarapi.MaxUsed)
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

// keyUsage tells how often a key was used, hour by hour. It serves operators and owners:
// an owner's call names his account.
func (s *Server) keyUsage(ctx context.Context, c *call) (answer, error) {
	span := keystore.UsageSpan{Account: c.account}
	var err error
	if span.Key, err = c.id(); err != nil {
		return answer{}, err
	}
	if span.From, err = c.moment(fromParam); err != nil {
		return answer{}, err
	}
	if span.Until, err = c.moment(untilParam); err != nil {
		return answer{}, err
	}
	list, next, err := s.store.KeyUsage(ctx, span, c.page)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Usage []hourView `json:"usage"`
		Next  *string    `json:"next"`
	}{views(list, viewHour), cursor(next)})
}

type hourView struct {
	Hour    time.Time `json:"hour"`
	Allowed int64     `json:"allowed"`
	Denied  int64     `json:"denied"`
}

func viewHour(u keystore.UsageHour) hourView {
	return hourView{Hour: u.Hour.UTC(), Allowed: u.Allowed, Denied: u.Denied}
}
