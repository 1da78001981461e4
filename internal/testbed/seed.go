package testbed

import (
	"context"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// Key is a minted key with its plaintext.
type Key struct {
	ID     string
	Secret credential.Secret
}

// Account makes an account and returns its id.
func (s *Site) Account(ctx context.Context) (string, error) {
	answer, err := s.Operators.Do(ctx, operatorapi.CreateAccount("", "Tests"))
	if err != nil {
		return "", err
	}
	return answer.Account.ID, nil
}

// Mint mints a key, which is a canary.
func (s *Site) Mint(ctx context.Context, account string) (Key, error) {
	answer, err := s.Operators.Do(ctx, operatorapi.MintKey(account, operatorapi.NewKey{Label: "test"}))
	if err != nil {
		return Key{}, err
	}
	s.Canaries.Add(answer.Plaintext.Reveal())
	return Key{ID: answer.Key.ID, Secret: answer.Plaintext.Secret}, nil
}

// MintSession mints a session, whose token is a canary.
func (s *Site) MintSession(ctx context.Context, account string) (credential.Secret, error) {
	answer, err := s.Operators.Do(ctx, operatorapi.MintSession(account, 0))
	if err != nil {
		return credential.Secret{}, err
	}
	s.Canaries.Add(answer.Token.Reveal())
	return answer.Token.Secret, nil
}

// Unknown makes a key that nobody has minted; it is a canary all the same.
func (s *Site) Unknown() credential.Secret {
	secret := credential.Mint(credential.Key)
	s.Canaries.Add(secret.Reveal())
	return secret
}
