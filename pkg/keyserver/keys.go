package keyserver

import (
	"context"
	"net/http"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// The bounds of a roll's grace in seconds.
const (
	operatorGrace = 7 * 24 * 60 * 60
	ownerGrace    = 24 * 60 * 60
)

func (s *Server) keyRoutes() []route {
	return []route{
		{method: http.MethodPost, path: "/v1/accounts/{id}/keys", do: s.mintKey, query: waits},
		{method: http.MethodGet, path: "/v1/accounts/{id}/keys", do: s.listKeys, query: lists},
		{method: http.MethodPost, path: "/v1/accounts/{id}/keys/import", do: s.importKey, query: waits},
		{method: http.MethodPost, path: importPath, do: s.importKeys, query: waits, stream: true},
		{method: http.MethodGet, path: "/v1/keys/{id}", do: s.getKey},
		{method: http.MethodPost, path: "/v1/keys/{id}/revoke", do: s.revokeKey, query: waits},
		{method: http.MethodPost, path: "/v1/keys/{id}/roll", do: s.rollKey(operatorGrace), query: waits},
		{method: http.MethodPut, path: "/v1/keys/{id}/scopes/{scope}", do: s.grant, query: waits},
		{method: http.MethodDelete, path: "/v1/keys/{id}/scopes/{scope}", do: s.ungrant, query: waits},
	}
}

// keyBody is what a mint or import says of the key itself.
type keyBody struct {
	Label     *string    `json:"label"`
	Scopes    []string   `json:"scopes"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// newKey checks the fields but for the scopes' catalogue, where the sides differ.
func (b keyBody) newKey(account string) (keystore.NewKey, error) {
	if err := checkText("label", b.Label, maxLabel); err != nil {
		return keystore.NewKey{}, err
	}
	expires, err := checkExpiry(b.ExpiresAt)
	if err != nil {
		return keystore.NewKey{}, err
	}
	return keystore.NewKey{
		ID:        newID("key_"),
		Account:   account,
		Label:     *b.Label,
		Scopes:    credential.NewScopes(b.Scopes...),
		ExpiresAt: expires,
	}, nil
}

func (s *Server) mintKey(ctx context.Context, c *call) (answer, error) {
	account, err := c.id()
	if err != nil {
		return answer{}, err
	}
	var body keyBody
	if err := decode(c.body, &body); err != nil {
		return answer{}, err
	}
	if err := s.settings.Load().Catalogue.check("scopes", body.Scopes...); err != nil {
		return answer{}, err
	}
	key, err := body.newKey(account)
	if err != nil {
		return answer{}, err
	}
	return s.mint(ctx, c, key)
}

// mint creates a key that has been checked.
func (s *Server) mint(ctx context.Context, c *call, key keystore.NewKey) (answer, error) {
	plaintext, digest, hint := minted(credential.Key)
	key.Digest, key.Hint = digest, hint
	return s.create(ctx, c, key, func(k keyView, change changeView) any { return keyMinted{k, plaintext, change} })
}

func (s *Server) importKey(ctx context.Context, c *call) (answer, error) {
	account, err := c.id()
	if err != nil {
		return answer{}, err
	}
	var body importBody
	if err := decode(c.body, &body); err != nil {
		return answer{}, err
	}
	key, err := body.imported(account, s.settings.Load().Catalogue)
	if err != nil {
		return answer{}, err
	}
	return s.create(ctx, c, key, func(k keyView, change changeView) any { return keyChanged{k, change} })
}

// create keeps a new key, and answers with the view of it.
func (s *Server) create(ctx context.Context, c *call, key keystore.NewKey, view func(keyView, changeView) any) (answer, error) {
	kept, err := s.store.CreateKey(ctx, c.actor, key)
	if err != nil {
		return answer{}, err
	}
	change, err := s.reached(ctx, c, kept.Revision)
	if err != nil {
		return answer{}, err
	}
	return created(view(viewKey(kept), change))
}

func (s *Server) listKeys(ctx context.Context, c *call) (answer, error) {
	account, err := c.id()
	if err != nil {
		return answer{}, err
	}
	return s.keysOf(ctx, c, account)
}

func (s *Server) keysOf(ctx context.Context, c *call, account string) (answer, error) {
	list, next, err := s.store.Keys(ctx, account, c.page)
	if err != nil {
		return answer{}, err
	}
	return ok(keyList{views(list, viewKey), cursor(next)})
}

func (s *Server) getKey(ctx context.Context, c *call) (answer, error) {
	id, err := c.id()
	if err != nil {
		return answer{}, err
	}
	key, err := s.store.Key(ctx, id)
	if err != nil {
		return answer{}, err
	}
	return ok(keyAnswer{viewKey(key)})
}

// revokeKey is the operators': whether the key's chain is meant stands in the body.
func (s *Server) revokeKey(ctx context.Context, c *call) (answer, error) {
	id, err := c.id()
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Chain bool `json:"chain"`
	}
	if err := decode(c.body, &body); err != nil {
		return answer{}, err
	}
	return s.revoke(ctx, c, id, body.Chain)
}

// revoke serves operators and owners: an owner's call names the account.
func (s *Server) revoke(ctx context.Context, c *call, id string, chain bool) (answer, error) {
	if !chain {
		key, err := s.store.RevokeKey(ctx, c.actor, id, c.account)
		return s.keyChange(ctx, c, key, err)
	}
	done, err := s.store.RevokeChain(ctx, c.actor, id, c.account)
	if err != nil {
		return answer{}, err
	}
	change, err := s.reached(ctx, c, done.Revision)
	if err != nil {
		return answer{}, err
	}
	return ok(chainRevoked{viewKey(done.Key), done.Revoked, change})
}

// rollKey serves operators and owners: an owner's call names his account.
func (s *Server) rollKey(longestGrace int64) operation {
	return func(ctx context.Context, c *call) (answer, error) {
		id, err := c.id()
		if err != nil {
			return answer{}, err
		}
		var body struct {
			GraceSeconds *int64 `json:"grace_seconds"`
		}
		if err := decode(c.body, &body); err != nil {
			return answer{}, err
		}
		grace, err := seconds("grace_seconds", body.GraceSeconds, 0, 0, longestGrace)
		if err != nil {
			return answer{}, err
		}
		plaintext, digest, hint := minted(credential.Key)
		roll := keystore.Roll{ID: id, Account: c.account, NewID: newID("key_"), Digest: digest, Hint: hint, Grace: grace}
		successor, replaced, err := s.store.RollKey(ctx, c.actor, roll)
		if err != nil {
			return answer{}, err
		}
		change, err := s.reached(ctx, c, replaced.Revision) // the newest of the roll's
		if err != nil {
			return answer{}, err
		}
		return created(keyRolled{viewKey(successor), plaintext, viewKey(replaced), change})
	}
}

func (s *Server) grant(ctx context.Context, c *call) (answer, error) {
	id, err := c.idAlone()
	if err != nil {
		return answer{}, err
	}
	scope := c.path("scope")
	if err := s.settings.Load().Catalogue.check("scope", scope); err != nil {
		return answer{}, err
	}
	key, err := s.store.SetKeyScope(ctx, c.actor, id, scope, true)
	return s.keyChange(ctx, c, key, err)
}

// ungrant takes a scope away; also one that has left the catalogue since it was
// granted, or nobody could.
func (s *Server) ungrant(ctx context.Context, c *call) (answer, error) {
	id, err := c.idAlone()
	if err != nil {
		return answer{}, err
	}
	scope := c.path("scope")
	if refused := s.settings.Load().Catalogue.check("scope", scope); refused != nil {
		if key, err := s.store.Key(ctx, id); err != nil {
			return answer{}, err
		} else if !key.Scopes.Has(scope) {
			return answer{}, refused
		}
	}
	key, err := s.store.SetKeyScope(ctx, c.actor, id, scope, false)
	return s.keyChange(ctx, c, key, err)
}

// keyChange answers a change of a key with what it has reached.
func (s *Server) keyChange(ctx context.Context, c *call, key keystore.Key, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	change, err := s.reached(ctx, c, key.Revision)
	if err != nil {
		return answer{}, err
	}
	return ok(keyChanged{viewKey(key), change})
}
