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

// CreateAccount creates an account and returns its id.
func (tb *Testbed) CreateAccount(ctx context.Context) (string, error) {
	answer, err := tb.Operators.Do(ctx, operatorapi.CreateAccount("", "Tests"))
	if err != nil {
		return "", err
	}
	return answer.Account.ID, nil
}

// MintKey mints a key, which is a canary.
func (tb *Testbed) MintKey(ctx context.Context, account string) (Key, error) {
	answer, err := tb.Operators.Do(ctx, operatorapi.MintKey(account, operatorapi.NewKey{Label: "test"}))
	if err != nil {
		return Key{}, err
	}
	tb.Canaries.Add(answer.Plaintext.Reveal())
	return Key{ID: answer.Key.ID, Secret: answer.Plaintext}, nil
}

// MintSession mints a session, whose token is a canary.
func (tb *Testbed) MintSession(ctx context.Context, account string) (credential.Secret, error) {
	answer, err := tb.Operators.Do(ctx, operatorapi.MintSession(account, 0))
	if err != nil {
		return credential.Secret{}, err
	}
	tb.Canaries.Add(answer.Token.Reveal())
	return answer.Token, nil
}

// UnknownKey returns a key that was never minted. It is a canary.
func (tb *Testbed) UnknownKey() credential.Secret {
	secret := credential.Mint(credential.Key)
	tb.Canaries.Add(secret.Reveal())
	return secret
}
