package keyserver

import (
	"context"
	"net/http"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// The bounds of a session's life in seconds.
const (
	leastTTL   = 60
	longestTTL = 30 * 24 * 60 * 60
	defaultTTL = 12 * 60 * 60
)

func (s *Server) sessionRoutes() []route {
	return []route{
		{method: http.MethodPost, path: "/v1/accounts/{id}/sessions", do: s.mintSession, query: waits},
		{method: http.MethodDelete, path: "/v1/sessions/{id}", do: s.endSession, query: waits},
	}
}

// mintSession has nothing to wait for: nobody can have asked for the session before.
func (s *Server) mintSession(ctx context.Context, c *call) (answer, error) {
	account, err := c.id()
	if err != nil {
		return answer{}, err
	}
	var body struct {
		TTLSeconds *int64 `json:"ttl_seconds"`
	}
	if err := decode(c.body, &body); err != nil {
		return answer{}, err
	}
	ttl, err := seconds("ttl_seconds", body.TTLSeconds, defaultTTL, leastTTL, longestTTL)
	if err != nil {
		return answer{}, err
	}
	token, digest, _ := minted(credential.Session)
	session, err := s.store.CreateSession(ctx, c.actor, keystore.NewSession{
		ID: newID("ses_"), Account: account, Digest: digest, TTL: ttl,
	})
	if err != nil {
		return answer{}, err
	}
	return created(struct {
		Session sessionView `json:"session"`
		Token   shown       `json:"token"`
	}{viewSession(session), token})
}

func (s *Server) endSession(ctx context.Context, c *call) (answer, error) {
	id, err := c.idAlone()
	if err != nil {
		return answer{}, err
	}
	session, err := s.store.EndSession(ctx, c.actor, id)
	if err != nil {
		return answer{}, err
	}
	change, err := s.reached(ctx, c, session.Revision)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Session sessionView `json:"session"`
		Change  changeView  `json:"change"`
	}{viewSession(session), change})
}
