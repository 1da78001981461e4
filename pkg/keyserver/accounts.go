package keyserver

import (
	"context"
	"net/http"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func (s *Server) accountRoutes() []route {
	return []route{
		{method: http.MethodPost, path: "/v1/accounts", do: s.createAccount, query: waits},
		{method: http.MethodGet, path: "/v1/accounts", do: s.listAccounts, query: lists},
		{method: http.MethodGet, path: "/v1/accounts/{id}", do: s.getAccount},
		{method: http.MethodPost, path: "/v1/accounts/{id}/terminate", do: s.setAccount(credential.Terminated), query: waits},
		{method: http.MethodPost, path: "/v1/accounts/{id}/reinstate", do: s.setAccount(credential.Active), query: waits},
	}
}

func (s *Server) createAccount(ctx context.Context, c *call) (answer, error) {
	var body struct {
		ID   *string `json:"id"`
		Name *string `json:"name"`
	}
	if err := decode(c.body, &body); err != nil {
		return answer{}, err
	}
	id := newID("acc_")
	if body.ID != nil {
		id = *body.ID
	}
	if !validID(id) {
		return answer{}, badRequest("id", idRule)
	}
	if err := checkText("name", body.Name, maxLabel); err != nil {
		return answer{}, err
	}
	account, err := s.store.CreateAccount(ctx, c.actor, id, *body.Name)
	if err != nil {
		return answer{}, err
	}
	// The answer has no place for the change, but it may be waited for.
	if c.wait > 0 {
		if _, err := s.reached(ctx, c, account.Revision); err != nil {
			return answer{}, err
		}
	}
	return created(accountAnswer{viewAccount(account)})
}

func (s *Server) listAccounts(ctx context.Context, c *call) (answer, error) {
	list, next, err := s.store.Accounts(ctx, c.page)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Accounts []accountView `json:"accounts"`
		Next     *string       `json:"next"`
	}{views(list, viewAccount), cursor(next)})
}

func (s *Server) getAccount(ctx context.Context, c *call) (answer, error) {
	id, err := c.id()
	if err != nil {
		return answer{}, err
	}
	account, err := s.store.Account(ctx, id)
	if err != nil {
		return answer{}, err
	}
	return ok(accountAnswer{viewAccount(account)})
}

func (s *Server) setAccount(state credential.State) operation {
	return func(ctx context.Context, c *call) (answer, error) {
		id, err := c.idAlone()
		if err != nil {
			return answer{}, err
		}
		account, err := s.store.SetAccountState(ctx, c.actor, id, state)
		if err != nil {
			return answer{}, err
		}
		change, err := s.reached(ctx, c, account.Revision)
		if err != nil {
			return answer{}, err
		}
		return ok(accountChanged{viewAccount(account), change})
	}
}
