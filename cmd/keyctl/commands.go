package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// command is one row of the table. Either requests or list is set.
type command struct {
	name        string // NOUN VERB, or VERB
	short, long string // help
	needs       []string
	takes       []string             // optional flags
	groups      func(*cobra.Command) // declares which flags exclude or require each other
	// requests makes the requests, which are sent in order. The last answer is printed.
	requests func(options) []operatorapi.Request
	list     func(context.Context, *operatorapi.Client, options) (listing, error)
	// ifUnknown says what to do if the outcome of a change is unknown.
	ifUnknown string
}

const (
	repeatable = "the command can be repeated without harm"
	lostKey    = "if it was made, nobody has the plaintext of the new key: find the key with `keyctl key list` and revoke it"

	lostSession   = "if it was made, nobody has the token of the new session: find the session with `keyctl audit` and end it"
	lostSuccessor = "if it was made, the old key is revoked or expires after the grace, and nobody has the plaintext of its successor:\n" +
		"  find the successor with `keyctl audit -key` and the old ID, and revoke or roll it"
)

// commands holds all commands that send requests.
var commands = []command{
	{
		name: "account create", short: "Create an account",
		needs: []string{"name"}, takes: []string{"id"},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.CreateAccount(o.id, o.name) }),
		ifUnknown: "see `keyctl account list` before repeating it",
	},
	{
		name: "account get", short: "Show an account", needs: []string{"id"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.GetAccount(o.id) }),
	},
	{name: "account list", short: "List all accounts", list: listAccounts},
	{
		name: "account terminate", short: "Disable all keys and sessions of an account",
		needs: []string{"id"}, takes: []string{"wait"},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.TerminateAccount(o.id) }),
		ifUnknown: repeatable,
	},
	{
		name: "account reinstate", short: "Revert the termination of an account",
		needs: []string{"id"}, takes: []string{"wait"},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.ReinstateAccount(o.id) }),
		ifUnknown: repeatable,
	},
	{
		name: "key mint", short: "Mint a key and print it once, alone on standard output",
		needs: []string{"account", "label"}, takes: []string{"scope", "expires", "wait"},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.MintKey(o.account, o.newKey()) }),
		ifUnknown: lostKey,
	},
	{
		name: "key import", short: "Import keys that exist elsewhere, by their SHA-256",
		long: `Import one key (--account, --sha256, --label), or all keys of a file (--file).

Each line of the file is a JSON object with account, sha256, label and optionally scopes and expires_at:
  {"account":"acc_1","sha256":"9f86d081…","label":"laptop","scopes":["chat:companion"]}
A file can be imported again: keys that exist already are skipped.`,
		takes: []string{"account", "sha256", "label", "file", "scope", "expires", "wait"},
		groups: func(cmd *cobra.Command) {
			cmd.MarkFlagsOneRequired("sha256", "file")
			cmd.MarkFlagsRequiredTogether("account", "sha256", "label")
			for _, name := range []string{"sha256", "account", "label", "scope", "expires"} {
				cmd.MarkFlagsMutuallyExclusive("file", name)
			}
		},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.ImportKey(o.account, o.sha256, o.newKey()) }),
		ifUnknown: "repeat it: if it was made, the API responds with 409",
	},
	{name: "key list", short: "List the keys of an account", needs: []string{"account"}, list: listKeys},
	{
		name: "key get", short: "Show a key", needs: []string{"id"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.GetKey(o.id) }),
	},
	{
		name: "key revoke", short: "Revoke a key permanently",
		needs: []string{"id"}, takes: []string{"chain", "wait"},
		requests: one(func(o options) operatorapi.Request {
			if o.chain {
				return operatorapi.RevokeChain(o.id)
			}
			return operatorapi.RevokeKey(o.id)
		}),
		ifUnknown: repeatable,
	},
	{
		name: "key roll", short: "Replace a key by a new one, and print that like key mint",
		needs: []string{"id"}, takes: []string{"grace", "wait"},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.RollKey(o.id, o.grace) }),
		ifUnknown: lostSuccessor,
	},
	{
		name: "key grant", short: "Add scopes to a key",
		needs: []string{"id", "scope"}, takes: []string{"wait"},
		requests: eachScope(operatorapi.GrantScope), ifUnknown: repeatable,
	},
	{
		name: "key ungrant", short: "Remove scopes from a key",
		needs: []string{"id", "scope"}, takes: []string{"wait"},
		requests: eachScope(operatorapi.UngrantScope), ifUnknown: repeatable,
	},
	{name: "key usage", short: "List how often a key was used in each hour", needs: []string{"id"}, list: listUsage},
	{
		name: "session mint", short: "Create a session and print its token once, alone on standard output",
		needs: []string{"account"}, takes: []string{"ttl"},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.MintSession(o.account, o.ttl) }),
		ifUnknown: lostSession,
	},
	{
		name: "session end", short: "End a session permanently",
		needs: []string{"id"}, takes: []string{"wait"},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.EndSession(o.id) }),
		ifUnknown: repeatable,
	},
	{name: "sidecar list", short: "List the sidecars that may still use cached credentials", list: listSidecars},
	{
		name: "sidecar forget", short: "Remove a sidecar that is known to be gone, so that no change waits for it",
		needs:     []string{"name"},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.ForgetSidecar(o.name) }),
		ifUnknown: "repeat it: if it was made, the API responds with 404",
	},
	{name: "audit", short: "List all changes, newest first", takes: []string{"account", "key"}, list: listEvents},
}

func one(request func(options) operatorapi.Request) func(options) []operatorapi.Request {
	return func(o options) []operatorapi.Request { return []operatorapi.Request{request(o)} }
}

func eachScope(request func(id, scope string) operatorapi.Request) func(options) []operatorapi.Request {
	return func(o options) []operatorapi.Request {
		var all []operatorapi.Request
		for _, scope := range o.scopes {
			all = append(all, request(o.id, scope))
		}
		return all
	}
}
