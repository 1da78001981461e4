package testbed

import (
	"context"
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
	s := &seeder{ctx: ctx, tb: tb}
	c := Credentials{Unknown: tb.UnknownKey().Reveal(), Expiry: time.Now().Add(time.Second)}
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
	return c, s.err
}

// CreateAccount creates an account and returns its id.
func (tb *Testbed) CreateAccount(ctx context.Context) (string, error) {
	s := &seeder{ctx: ctx, tb: tb}
	return s.do(operatorapi.CreateAccount("", "Tests")).Account.ID, s.err
}

// Key is a minted key with its plaintext.
type Key struct {
	ID     string
	Secret credential.Secret
}

// MintKey mints a key, which is a canary.
func (tb *Testbed) MintKey(ctx context.Context, account string) (Key, error) {
	s := &seeder{ctx: ctx, tb: tb}
	id, plaintext := s.mint(account, operatorapi.NewKey{Label: "test"})
	return Key{ID: id, Secret: credential.NewSecret(plaintext)}, s.err
}

// MintSession mints a session, whose token is a canary.
func (tb *Testbed) MintSession(ctx context.Context, account string) (credential.Secret, error) {
	s := &seeder{ctx: ctx, tb: tb}
	_, token := s.session(account)
	return credential.NewSecret(token), s.err
}

// UnknownKey returns a key that was never minted. It is a canary.
func (tb *Testbed) UnknownKey() credential.Secret {
	secret := credential.Mint(credential.Key)
	tb.Canaries.Add(secret.Reveal())
	return secret
}

// seeder sends requests until one fails; later ones return empty answers.
type seeder struct {
	ctx context.Context // of the caller
	tb  *Testbed
	err error
}

func (s *seeder) do(r operatorapi.Request) operatorapi.Answer {
	answer := operatorapi.Answer{}
	if s.err == nil {
		answer, s.err = s.tb.Operators.Do(s.ctx, r)
	}
	if s.err != nil {
		answer.Account, answer.Key, answer.Session = &operatorapi.Account{}, &operatorapi.Key{}, &operatorapi.Session{}
	}
	return answer
}

func (s *seeder) mint(account string, k operatorapi.NewKey) (id, plaintext string) {
	answer := s.do(operatorapi.MintKey(account, k))
	return answer.Key.ID, s.canary(answer.Plaintext.Reveal())
}

func (s *seeder) session(account string) (id, token string) {
	answer := s.do(operatorapi.MintSession(account, 0))
	return answer.Session.ID, s.canary(answer.Token.Reveal())
}

func (s *seeder) canary(secret string) string {
	if s.err == nil {
		s.tb.Canaries.Add(secret)
	}
	return secret
}
