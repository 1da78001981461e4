package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// credentials are what the demo's callers present.
type credentials struct {
	plain, chat, revoked, expired, terminated, session credential.Secret
	expiry                                             time.Time // of expired
}

// seed creates two accounts, five keys and a session, as an operator would.
func (s *stack) seed(ctx context.Context) (credentials, error) {
	o := &operator{ctx: ctx, client: s.Operators}
	var c credentials
	alice := o.account("Alice")
	bob := o.account("Bob")
	c.expiry = time.Now().Add(time.Second) // the API rejects a time in the past
	_, c.expired = o.mint(alice, operatorapi.NewKey{Label: "expired", ExpiresAt: c.expiry})
	_, c.plain = o.mint(alice, operatorapi.NewKey{Label: "without a scope"})
	chat, plaintext := o.mint(alice, operatorapi.NewKey{Label: "chat"})
	c.chat = plaintext
	o.do("grant a scope", operatorapi.GrantScope(chat, "chat:companion"))
	revoked, plaintext := o.mint(alice, operatorapi.NewKey{Label: "revoked"})
	c.revoked = plaintext
	o.do("revoke a key", operatorapi.RevokeKey(revoked))
	_, c.terminated = o.mint(bob, operatorapi.NewKey{Label: "of a terminated account"})
	o.do("terminate an account", operatorapi.TerminateAccount(bob))
	c.session = o.do("mint a session", operatorapi.MintSession(alice, 0)).Token
	return c, o.err
}

// operator makes requests until one fails; later ones do nothing.
type operator struct {
	ctx    context.Context // of seed
	client *operatorapi.Client
	err    error
}

func (o *operator) do(what string, r operatorapi.Request) operatorapi.Answer {
	if o.err != nil {
		return operatorapi.Answer{}
	}
	answer, err := o.client.Do(o.ctx, r)
	if err != nil {
		o.err = fmt.Errorf("%s: %w", what, err)
	}
	return answer
}

func (o *operator) account(name string) (id string) {
	if answer := o.do("create an account", operatorapi.CreateAccount("", name)); answer.Account != nil {
		return answer.Account.ID
	}
	return ""
}

func (o *operator) mint(account string, k operatorapi.NewKey) (id string, plaintext credential.Secret) {
	answer := o.do("mint a key", operatorapi.MintKey(account, k))
	if answer.Key != nil {
		id = answer.Key.ID
	}
	return id, answer.Plaintext
}

// variables are those of demo.env, in its order.
type variables []struct{ name, value string }

func (s *stack) variables(c credentials) variables {
	return variables{
		{"PHANTOM_URL", s.url()},
		{"PHANTOM_KEY", c.plain.Reveal()},
		{"PHANTOM_CHAT_KEY", c.chat.Reveal()},
		{"PHANTOM_REVOKED_KEY", c.revoked.Reveal()},
		{"PHANTOM_EXPIRED_KEY", c.expired.Reveal()},
		{"PHANTOM_TERMINATED_KEY", c.terminated.Reveal()},
		{"PHANTOM_SESSION", c.session.Reveal()},
		{"KEYCTL_URL", "http://" + s.keyd.Addresses["listen.operators"]},
		{"KEYCTL_TOKEN_FILE", s.File("operator.token")},
		{"AUTHZD_ADMIN", s.authzd.Admin()},
		{"KEYD_ADMIN", s.keyd.Admin()},
		{"ENVOY_ADMIN", "http://" + s.envoyAdmin},
	}
}

func (v variables) get(name string) string {
	for _, variable := range v {
		if variable.name == name {
			return variable.value
		}
	}
	return ""
}

// shell returns NAME='value' lines.
func (v variables) shell() []byte {
	var b bytes.Buffer
	for _, variable := range v {
		fmt.Fprintf(&b, "%s='%s'\n", variable.name, strings.ReplaceAll(variable.value, "'", `'\''`))
	}
	return b.Bytes()
}
