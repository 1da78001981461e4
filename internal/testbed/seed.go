package testbed

import (
	"context"
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// Credentials are keys and session tokens in each state. All are canaries.
type Credentials struct {
	Account, PlainID, ChatID, SessionID string // of Plain, Chat and Session

	Plain string // a key without a scope
	Chat  string // a key with the scope chat:companion

	Revoked, Expired, Terminated, Unknown string // keys
	Session, EndedSession                 string

	Expiry time.Time // of Expired
}

// Secrets returns the keys and tokens.
func (c Credentials) Secrets() []string {
	return []string{c.Plain, c.Chat, c.Revoked, c.Expired, c.Terminated, c.Unknown, c.Session, c.EndedSession}
}

// Seed creates two accounts with keys and sessions. The second account is terminated.
func (tb *Testbed) Seed(ctx context.Context) (Credentials, error) {
	s := &seeder{ctx: ctx, client: tb.Operators}
	c := Credentials{Unknown: credential.Mint(credential.Key).Reveal(), Expiry: time.Now().Add(time.Second)}
	c.Account = s.do(operatorapi.CreateAccount("", "Alice")).Account.ID
	bob := s.do(operatorapi.CreateAccount("", "Bob")).Account.ID
	chat := []string{"chat:companion"}
	_, c.Expired = s.mint(c.Account, operatorapi.NewKey{Label: "expired", ExpiresAt: c.Expiry})
	c.PlainID, c.Plain = s.mint(c.Account, operatorapi.NewKey{Label: "without a scope"})
	c.ChatID, c.Chat = s.mint(c.Account, operatorapi.NewKey{Label: "chat", Scopes: chat})
	id, plaintext := s.mint(c.Account, operatorapi.NewKey{Label: "revoked", Scopes: chat})
	c.Revoked = plaintext
	s.do(operatorapi.RevokeKey(id))
	_, c.Terminated = s.mint(bob, operatorapi.NewKey{Label: "of a terminated account", Scopes: chat})
	s.do(operatorapi.TerminateAccount(bob))
	c.SessionID, c.Session = s.session(c.Account)
	id, c.EndedSession = s.session(c.Account)
	s.do(operatorapi.EndSession(id))
	if s.err != nil {
		return c, fmt.Errorf("seed: %w", s.err)
	}
	for _, secret := range c.Secrets() {
		tb.Canaries.Add(secret)
	}
	return c, nil
}

// seeder sends requests until one fails; later ones return empty answers.
type seeder struct {
	ctx    context.Context // of Seed
	client *operatorapi.Client
	err    error
}

func (s *seeder) do(r operatorapi.Request) operatorapi.Answer {
	answer := operatorapi.Answer{}
	if s.err == nil {
		answer, s.err = s.client.Do(s.ctx, r)
	}
	if s.err != nil {
		answer.Account, answer.Key, answer.Session = &operatorapi.Account{}, &operatorapi.Key{}, &operatorapi.Session{}
	}
	return answer
}

func (s *seeder) mint(account string, k operatorapi.NewKey) (id, plaintext string) {
	answer := s.do(operatorapi.MintKey(account, k))
	return answer.Key.ID, answer.Plaintext.Reveal()
}

func (s *seeder) session(account string) (id, token string) {
	answer := s.do(operatorapi.MintSession(account, 0))
	return answer.Session.ID, answer.Token.Reveal()
}
