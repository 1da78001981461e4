package keyserver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const (
	accountParam = "account"
	keyParam     = "key"
	fromParam    = "from"
	untilParam   = "until"
)

func (s *Server) recordRoutes() []route {
	return []route{
		{Method: http.MethodGet, Path: "/v1/revisions/{revision}", Do: withoutBody(s.getRevision), Query: waits},
		{Method: http.MethodGet, Path: "/v1/sidecars", Do: withoutBody(s.listSidecars), Query: lists},
		{Method: http.MethodDelete, Path: "/v1/sidecars/{name}", Do: withoutBody(s.forgetSidecar)},
		{Method: http.MethodGet, Path: "/v1/keys/{id}/usage", Do: withoutBody(s.keyUsage), Query: spans},
		{Method: http.MethodGet, Path: "/v1/audit", Do: withoutBody(s.listEvents), Query: slices.Concat(lists, []string{accountParam, keyParam})},
	}
}

func (s *Server) getRevision(ctx context.Context, c *call) (httpapi.Response, error) {
	revision, ok := httpapi.ParseDigits(c.Request.PathValue("revision"))
	if !ok {
		return httpapi.Response{}, httpapi.BadRequest("revision", "must be a whole number")
	}
	head, err := s.store.Head(ctx)
	if err == nil && revision > head.Revision {
		err = httpapi.Errorf(http.StatusNotFound, "No such revision yet")
	}
	return s.changed(ctx, c, http.StatusOK, operatorapi.Answer{}, revision, err)
}

func (s *Server) listSidecars(ctx context.Context, c *call) (httpapi.Response, error) {
	_, list, next, err := s.store.Sidecars(ctx, c.page())
	return listed(operatorapi.Page{Sidecars: each(list, sidecarOf)}, next, err)
}

// forgetSidecar is for a sidecar that no longer exists: no change waits for it any more.
func (s *Server) forgetSidecar(ctx context.Context, c *call) (httpapi.Response, error) {
	name, err := c.Request.PathValue("name"), keystore.ErrNotFound
	var sidecar keystore.Sidecar
	if utf8.ValidString(name) && checkText("name", name, sidecarapi.MaxSidecar) == nil { // else no poll can have had that name
		sidecar, err = s.store.Forget(ctx, c.Caller.actor, name)
	}
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return httpapi.Response{}, httpapi.Errorf(http.StatusNotFound, "No such sidecar is on record")
	case err != nil:
		return httpapi.Response{}, err
	}
	return httpapi.OK(operatorapi.Answer{Sidecar: new(sidecarOf(sidecar))})
}

func (s *Server) listEvents(ctx context.Context, c *call) (httpapi.Response, error) {
	account, err := c.optionalID(accountParam)
	if err != nil {
		return httpapi.Response{}, err
	}
	key, err := c.optionalID(keyParam)
	if err != nil {
		return httpapi.Response{}, err
	}
	list, next, err := s.store.Events(ctx, account, key, c.page())
	return listed(operatorapi.Page{Events: each(list, eventOf)}, next, err)
}

// keyUsage lists the hourly usage of a key, for operators and owners.
func (s *Server) keyUsage(ctx context.Context, c *call) (httpapi.Response, error) {
	from, err := c.Query.Time(fromParam)
	if err != nil {
		return httpapi.Response{}, err
	}
	until, err := c.Query.Time(untilParam)
	if err != nil {
		return httpapi.Response{}, err
	}
	span := keystore.UsageSpan{Key: c.id, Account: c.Caller.account, From: from, Until: until}
	list, next, err := s.store.KeyUsage(ctx, span, c.page())
	return listed(operatorapi.Page{Usage: each(list, usageOf)}, next, err)
}
