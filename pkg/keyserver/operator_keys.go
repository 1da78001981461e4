package keyserver

import (
	"context"
	"net/http"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// Bounds of a roll's grace, in seconds.
const (
	operatorGrace = 7 * 24 * 60 * 60
	ownerGrace    = 24 * 60 * 60
)

const importPath = "/v1/keys/import"

func (s *Server) keyRoutes() []route {
	return []route{
		{Method: http.MethodPost, Path: "/v1/accounts/{id}/keys", Do: withBody(s.mintKey), Query: waits},
		{Method: http.MethodGet, Path: "/v1/accounts/{id}/keys", Do: withoutBody(s.listKeys), Query: lists},
		{Method: http.MethodPost, Path: "/v1/accounts/{id}/keys/import", Do: withBody(s.importKey), Query: waits},
		{Method: http.MethodPost, Path: importPath, Do: withoutBody(s.importKeys), Query: waits, Stream: true},
		{Method: http.MethodGet, Path: "/v1/keys/{id}", Do: withoutBody(s.getKey)},
		{Method: http.MethodPost, Path: "/v1/keys/{id}/revoke", Do: withBody(s.revokeKey), Query: waits},
		{Method: http.MethodPost, Path: "/v1/keys/{id}/roll", Do: s.rollKey(operatorGrace), Query: waits},
		{Method: http.MethodPut, Path: "/v1/keys/{id}/scopes/{scope}", Do: withoutBody(s.grant), Query: waits},
		{Method: http.MethodDelete, Path: "/v1/keys/{id}/scopes/{scope}", Do: withoutBody(s.ungrant), Query: waits},
	}
}

// keyBody is the body of a mint.
type keyBody struct {
	Label     string     `json:"label"`
	Scopes    []string   `json:"scopes"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// newKey checks the fields except the scopes, whose rules differ between the sides.
func (b keyBody) newKey(account string) (keystore.NewKey, error) {
	if err := checkText("label", b.Label, maxLabel); err != nil {
		return keystore.NewKey{}, err
	}
	expires, err := checkExpiry(b.ExpiresAt)
	return keystore.NewKey{
		ID:        newID("key_"),
		Account:   account,
		Label:     b.Label,
		Scopes:    credential.NewScopes(b.Scopes...),
		ExpiresAt: expires,
	}, err
}

func (s *Server) mintKey(ctx context.Context, c *call, body keyBody) (httpapi.Response, error) {
	if err := s.settings.Load().Catalogue.check("scopes", body.Scopes...); err != nil {
		return httpapi.Response{}, err
	}
	key, err := body.newKey(c.id)
	if err != nil {
		return httpapi.Response{}, err
	}
	return s.mint(ctx, c, key)
}

// mint creates a key that has been checked.
func (s *Server) mint(ctx context.Context, c *call, key keystore.NewKey) (httpapi.Response, error) {
	plaintext, digest, hint := mint(credential.Key)
	key.Digest, key.Hint = digest, hint
	created, err := s.store.CreateKey(ctx, c.Caller.actor, key)
	return s.changed(ctx, c, http.StatusCreated, operatorapi.Answer{Key: new(keyOf(created)), Plaintext: plaintext}, created.Revision, err)
}

func (s *Server) importKey(ctx context.Context, c *call, body importBody) (httpapi.Response, error) {
	key, err := body.newKey(c.id, s.settings.Load().Catalogue)
	if err != nil {
		return httpapi.Response{}, err
	}
	created, err := s.store.CreateKey(ctx, c.Caller.actor, key)
	return s.changedKey(ctx, c, http.StatusCreated, created, err)
}

// changedKey is changed for an answer that has only a key.
func (s *Server) changedKey(ctx context.Context, c *call, status int, key keystore.Key, err error) (httpapi.Response, error) {
	return s.changed(ctx, c, status, operatorapi.Answer{Key: new(keyOf(key))}, key.Revision, err)
}

func (s *Server) listKeys(ctx context.Context, c *call) (httpapi.Response, error) {
	list, next, err := s.store.Keys(ctx, c.id, c.page())
	return listed(operatorapi.Page{Keys: each(list, keyOf)}, next, err)
}

func (s *Server) getKey(ctx context.Context, c *call) (httpapi.Response, error) {
	key, err := s.store.Key(ctx, c.id)
	if err != nil {
		return httpapi.Response{}, err
	}
	return httpapi.OK(operatorapi.Answer{Key: new(keyOf(key))})
}

type revokeBody struct {
	Chain bool `json:"chain"`
}

func (s *Server) revokeKey(ctx context.Context, c *call, body revokeBody) (httpapi.Response, error) {
	return s.revoke(ctx, c, body.Chain)
}

// revoke revokes a key or its chain, for operators and owners.
func (s *Server) revoke(ctx context.Context, c *call, chain bool) (httpapi.Response, error) {
	if !chain {
		key, err := s.store.RevokeKey(ctx, c.Caller.actor, c.id, c.Caller.account)
		return s.changedKey(ctx, c, http.StatusOK, key, err)
	}
	done, err := s.store.RevokeChain(ctx, c.Caller.actor, c.id, c.Caller.account)
	return s.changed(ctx, c, http.StatusOK, operatorapi.Answer{Key: new(keyOf(done.Key)), Revoked: done.Revoked}, done.Revision, err)
}

type rollBody struct {
	GraceSeconds *int64 `json:"grace_seconds"`
}

// rollKey replaces a key by a successor, for operators and owners.
func (s *Server) rollKey(maxGrace int64) httpapi.Operation[caller] {
	return withBody(func(ctx context.Context, c *call, body rollBody) (httpapi.Response, error) {
		grace, err := seconds("grace_seconds", body.GraceSeconds, 0, 0, maxGrace)
		if err != nil {
			return httpapi.Response{}, err
		}
		plaintext, digest, hint := mint(credential.Key)
		successor, replaced, err := s.store.RollKey(ctx, c.Caller.actor, keystore.Roll{
			ID: c.id, Account: c.Caller.account, NewID: newID("key_"), Digest: digest, Hint: hint, Grace: grace,
		})
		answer := operatorapi.Answer{Key: new(keyOf(successor)), Plaintext: plaintext, Replaced: new(keyOf(replaced))}
		return s.changed(ctx, c, http.StatusCreated, answer, replaced.Revision, err) // the latest revision of the roll
	})
}

func (s *Server) grant(ctx context.Context, c *call) (httpapi.Response, error) {
	scope := c.Request.PathValue("scope")
	if err := s.settings.Load().Catalogue.check("scope", scope); err != nil {
		return httpapi.Response{}, err
	}
	key, err := s.store.SetKeyScope(ctx, c.Caller.actor, c.id, scope, true)
	return s.changedKey(ctx, c, http.StatusOK, key, err)
}

// ungrant takes a scope from a key, even one that is no longer in the catalogue.
func (s *Server) ungrant(ctx context.Context, c *call) (httpapi.Response, error) {
	scope := c.Request.PathValue("scope")
	if rejected := s.settings.Load().Catalogue.check("scope", scope); rejected != nil {
		if key, err := s.store.Key(ctx, c.id); err != nil {
			return httpapi.Response{}, err
		} else if !key.Scopes.Has(scope) {
			return httpapi.Response{}, rejected
		}
	}
	key, err := s.store.SetKeyScope(ctx, c.Caller.actor, c.id, scope, false)
	return s.changedKey(ctx, c, http.StatusOK, key, err)
}
