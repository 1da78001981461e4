package keyserver

import (
	"context"
	"net/http"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

const chainParam = "chain"

// ownerRoutes are the routes of an account's own keys. The store limits every operation to the account of the caller.
func (s *Server) ownerRoutes() []route {
	return []route{
		{Method: http.MethodGet, Path: "/api/v1/me/keys", Do: withoutBody(s.listOwnKeys), Query: lists},
		{Method: http.MethodPost, Path: "/api/v1/me/keys", Do: withBody(s.mintOwnKey), Query: waits},
		{Method: http.MethodDelete, Path: "/api/v1/me/keys/{id}", Do: withoutBody(s.revokeOwnKey), Query: append([]string{chainParam}, waits...)},
		{Method: http.MethodPost, Path: "/api/v1/me/keys/{id}/roll", Do: s.rollKey(ownerGrace), Query: waits},
		{Method: http.MethodGet, Path: "/api/v1/me/keys/{id}/usage", Do: withoutBody(s.keyUsage), Query: spans},
	}
}

func (s *Server) listOwnKeys(ctx context.Context, c *call) (httpapi.Response, error) {
	list, next, err := s.store.Keys(ctx, c.Caller.account, c.page())
	return listed(operatorapi.Page{Keys: each(list, keyOf)}, next, err)
}

// revokeOwnKey reads the chain flag from the query, because a DELETE has no body.
func (s *Server) revokeOwnKey(ctx context.Context, c *call) (httpapi.Response, error) {
	chain, err := c.Query.Flag(chainParam)
	if err != nil {
		return httpapi.Response{}, err
	}
	return s.revoke(ctx, c, chain)
}

// mintOwnKey checks who may grant a scope, not which scopes the session has. Otherwise a session could mint a key
// with its own chat:companion.
func (s *Server) mintOwnKey(ctx context.Context, c *call, body keyBody) (httpapi.Response, error) {
	settings := s.settings.Load()
	if err := settings.Catalogue.checkOwner("scopes", body.Scopes...); err != nil {
		return httpapi.Response{}, err
	}
	key, err := body.newKey(c.Caller.account)
	if err != nil {
		return httpapi.Response{}, err
	}
	key.Limit = settings.KeysPerAccount
	return s.mint(ctx, c, key)
}
