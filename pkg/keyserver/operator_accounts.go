package keyserver

import (
	"context"
	"net/http"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// Bounds of a session's time to live, in seconds.
const (
	minTTL     = 60
	maxTTL     = 30 * 24 * 60 * 60
	defaultTTL = 12 * 60 * 60
)

func (s *Server) accountRoutes() []route {
	return []route{
		{Method: http.MethodPost, Path: "/v1/accounts", Do: withBody(s.createAccount), Query: waits},
		{Method: http.MethodGet, Path: "/v1/accounts", Do: withoutBody(s.listAccounts), Query: lists},
		{Method: http.MethodGet, Path: "/v1/accounts/{id}", Do: withoutBody(s.getAccount)},
		{Method: http.MethodPost, Path: "/v1/accounts/{id}/terminate", Do: s.setAccount(credential.Terminated), Query: waits},
		{Method: http.MethodPost, Path: "/v1/accounts/{id}/reinstate", Do: s.setAccount(credential.Active), Query: waits},
		{Method: http.MethodPost, Path: "/v1/accounts/{id}/sessions", Do: withBody(s.mintSession), Query: waits},
		{Method: http.MethodDelete, Path: "/v1/sessions/{id}", Do: withoutBody(s.endSession), Query: waits},
	}
}

type accountBody struct {
	ID   *string `json:"id"`
	Name string  `json:"name"`
}

func (s *Server) createAccount(ctx context.Context, c *call, body accountBody) (httpapi.Response, error) {
	id := newID("acc_")
	if body.ID != nil {
		id = *body.ID
	}
	if !validID(id) {
		return httpapi.Response{}, httpapi.BadRequest("id", idRule)
	}
	if err := checkText("name", body.Name, maxLabel); err != nil {
		return httpapi.Response{}, err
	}
	account, err := s.store.CreateAccount(ctx, c.Caller.actor, id, body.Name)
	if err != nil {
		return httpapi.Response{}, err
	}
	// The answer does not have the change, but the request may wait for it.
	if c.Query.Wait > 0 {
		if _, err := s.awaitChange(ctx, c, account.Revision); err != nil {
			return httpapi.Response{}, err
		}
	}
	return httpapi.Response{Status: http.StatusCreated, Body: operatorapi.Answer{Account: new(accountOf(account))}}, nil
}

func (s *Server) listAccounts(ctx context.Context, c *call) (httpapi.Response, error) {
	list, next, err := s.store.Accounts(ctx, c.page())
	return listed(operatorapi.Page{Accounts: each(list, accountOf)}, next, err)
}

func (s *Server) getAccount(ctx context.Context, c *call) (httpapi.Response, error) {
	account, err := s.store.Account(ctx, c.id)
	if err != nil {
		return httpapi.Response{}, err
	}
	return httpapi.OK(operatorapi.Answer{Account: new(accountOf(account))})
}

func (s *Server) setAccount(state credential.State) httpapi.Operation[caller] {
	return withoutBody(func(ctx context.Context, c *call) (httpapi.Response, error) {
		account, err := s.store.SetAccountState(ctx, c.Caller.actor, c.id, state)
		return s.changed(ctx, c, http.StatusOK, operatorapi.Answer{Account: new(accountOf(account))}, account.Revision, err)
	})
}

type sessionBody struct {
	TTLSeconds *int64 `json:"ttl_seconds"`
}

// mintSession does not wait for its change, because no sidecar can have looked the session up before.
func (s *Server) mintSession(ctx context.Context, c *call, body sessionBody) (httpapi.Response, error) {
	ttl, err := seconds("ttl_seconds", body.TTLSeconds, defaultTTL, minTTL, maxTTL)
	if err != nil {
		return httpapi.Response{}, err
	}
	token, digest, _ := mint(credential.Session)
	session, err := s.store.CreateSession(ctx, c.Caller.actor, keystore.NewSession{
		ID: newID("ses_"), Account: c.id, Digest: digest, TTL: ttl,
	})
	if err != nil {
		return httpapi.Response{}, err
	}
	return httpapi.Response{Status: http.StatusCreated, Body: operatorapi.Answer{Session: new(sessionOf(session)), Token: token}}, nil
}

func (s *Server) endSession(ctx context.Context, c *call) (httpapi.Response, error) {
	session, err := s.store.EndSession(ctx, c.Caller.actor, c.id)
	return s.changed(ctx, c, http.StatusOK, operatorapi.Answer{Session: new(sessionOf(session))}, session.Revision, err)
}
