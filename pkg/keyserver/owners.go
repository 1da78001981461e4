package keyserver

import (
	"context"
	"net/http"
	"slices"
)

func (s *Server) ownerRoutes() []route {
	return []route{
		{method: http.MethodGet, path: "/api/v1/me/keys", do: s.listOwnKeys, query: lists},
		{method: http.MethodPost, path: "/api/v1/me/keys", do: s.mintOwnKey, query: waits},
		{method: http.MethodDelete, path: "/api/v1/me/keys/{id}", do: s.revokeOwnKey, query: slices.Concat(waits, []string{chainParam})},
		{method: http.MethodPost, path: "/api/v1/me/keys/{id}/roll", do: s.rollKey(ownerGrace), query: waits},
		{method: http.MethodGet, path: "/api/v1/me/keys/{id}/usage", do: s.keyUsage, query: slices.Concat(lists, spans)},
	}
}

func (s *Server) listOwnKeys(ctx context.Context, c *call) (answer, error) {
	return s.keysOf(ctx, c, c.account)
}

// revokeOwnKey is the owners': a DELETE has no body, so whether the key's chain is meant stands in
// the query.
func (s *Server) revokeOwnKey(ctx context.Context, c *call) (answer, error) {
	id, err := c.idAlone()
	if err != nil {
		return answer{}, err
	}
	chain, err := c.flag(chainParam)
	if err != nil {
		return answer{}, err
	}
	return s.revoke(ctx, c, id, chain)
}

// mintOwnKey looks at who grants a scope, never at what the caller himself carries:
// else a session could mint a key with its own chat:companion.
func (s *Server) mintOwnKey(ctx context.Context, c *call) (answer, error) {
	var body keyBody
	if err := decode(c.body, &body); err != nil {
		return answer{}, err
	}
	settings := s.settings.Load()
	if err := settings.Catalogue.checkOwner("scopes", body.Scopes...); err != nil {
		return answer{}, err
	}
	key, err := body.newKey(c.account)
	if err != nil {
		return answer{}, err
	}
	key.Limit = settings.KeysPerAccount
	return s.mint(ctx, c, key)
}
