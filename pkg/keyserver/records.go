package keyserver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const (
	accountParam = "account"
	keyParam     = "key"
)

func (s *Server) recordRoutes() []route {
	return []route{
		{method: http.MethodGet, path: "/v1/revisions/{revision}", do: s.getRevision, query: waits},
		{method: http.MethodGet, path: "/v1/sidecars", do: s.listSidecars, query: lists},
		{method: http.MethodDelete, path: "/v1/sidecars/{name}", do: s.forgetSidecar},
		{method: http.MethodGet, path: "/v1/keys/{id}/usage", do: s.keyUsage, query: slices.Concat(lists, spans)},
		{method: http.MethodGet, path: "/v1/audit", do: s.listEvents, query: slices.Concat(lists, []string{accountParam, keyParam})},
	}
}

func (s *Server) getRevision(ctx context.Context, c *call) (answer, error) {
	revision, ok1 := digits(c.path("revision"))
	if !ok1 {
		return answer{}, badRequest("revision", "must be a whole number")
	}
	head, err := s.store.Head(ctx)
	if err != nil {
		return answer{}, err
	}
	if revision > head.Revision {
		return answer{}, &problem{status: http.StatusNotFound, message: "No such revision yet"}
	}
	change, err := s.reached(ctx, c, revision)
	if err != nil {
		return answer{}, err
	}
	return ok(changeAnswer{change})
}

func (s *Server) listSidecars(ctx context.Context, c *call) (answer, error) {
	_, list, next, err := s.store.Sidecars(ctx, c.page)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Sidecars []sidecarView `json:"sidecars"`
		Next     *string       `json:"next"`
	}{views(list, viewSidecar), cursor(next)})
}

// forgetSidecar is for a sidecar known to be gone: no change waits for it any longer.
func (s *Server) forgetSidecar(ctx context.Context, c *call) (answer, error) {
	if err := decode(c.body, &struct{}{}); err != nil {
		return answer{}, err
	}
	unknown := &problem{status: http.StatusNotFound, message: "No such sidecar is on record"}
	name := c.path("name")
	if !utf8.ValidString(name) || checkText("name", &name, sidecarapi.MaxSidecar) != nil {
		return answer{}, unknown // no poll can have had that name
	}
	sidecar, err := s.store.Forget(ctx, c.actor, name)
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return answer{}, unknown
	case err != nil:
		return answer{}, err
	}
	return ok(struct {
		Sidecar sidecarView `json:"sidecar"`
	}{viewSidecar(sidecar)})
}

func (s *Server) listEvents(ctx context.Context, c *call) (answer, error) {
	account, err := c.filter(accountParam)
	if err != nil {
		return answer{}, err
	}
	key, err := c.filter(keyParam)
	if err != nil {
		return answer{}, err
	}
	list, next, err := s.store.Events(ctx, account, key, c.page)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Events []eventView `json:"events"`
		Next   *string     `json:"next"`
	}{views(list, viewEvent), cursor(next)})
}
