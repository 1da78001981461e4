package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// command is one row of the table: a group of commands if requests and list are nil.
type command struct {
	name        string // one or two words
	group       string // of the help; for one word only
	short, long string
	needs       string               // required flags
	takes       string               // optional flags
	exclusions  func(*cobra.Command) // declares which flags exclude or require each other
	// requests makes the requests, which are sent in order. The last answer is printed.
	requests func(options) []operatorapi.Request
	list     func(context.Context, *operatorapi.Client, options) (listing, error)
	// ifUnknown says what to do if the outcome of a change is unknown. "" means that a repetition does no harm.
	ifUnknown string
}

const (
	lostKey       = "if it was made, the plaintext of the new key is lost: find the key with `keyctl key list` and revoke it"
	lostSession   = "if it was made, the token of the new session is lost: find the session with `keyctl audit` and end it"
	lostSuccessor = "if it was made, the old key is revoked or expires after the grace, and the plaintext of its successor is lost:\n" +
		"  find the successor with `keyctl audit -key` and the old ID, and revoke or roll it"
)

// The groups of the help.
const (
	access    = "Accounts and credentials:"
	operation = "Operation:"
	tool      = "This tool:"
)

// commands holds all commands that send requests.
var commands = []command{
	{name: "account", group: access, short: "Create, list, terminate and reinstate accounts"},
	{
		name: "account create", short: "Create an account",
		needs: "name", takes: "id",
		requests:  one(func(o options) operatorapi.Request { return operatorapi.CreateAccount(o.id, o.name) }),
		ifUnknown: "see `keyctl account list` before repeating it",
	},
	{name: "account get", short: "Show an account", needs: "id", requests: byID(operatorapi.GetAccount)},
	{name: "account list", short: "List all accounts", list: listAccounts},
	{
		name: "account terminate", short: "Disable all keys and sessions of an account",
		needs: "id", takes: "wait",
		requests: byID(operatorapi.TerminateAccount),
	},
	{
		name: "account reinstate", short: "Revert the termination of an account",
		needs: "id", takes: "wait",
		requests: byID(operatorapi.ReinstateAccount),
	},
	{name: "key", group: access, short: "Mint, import, list, roll and revoke keys, and change their scopes"},
	{
		name: "key mint", short: "Mint a key and print it once, alone on standard output",
		needs: "account label", takes: "scope expires wait",
		requests:  one(func(o options) operatorapi.Request { return operatorapi.MintKey(o.account, o.newKey()) }),
		ifUnknown: lostKey,
	},
	{
		name: "key import", short: "Import keys that exist elsewhere, by their SHA-256",
		long: `Import one key (--account, --sha256, --label), or all keys of a file (--file).

Each line of the file is a JSON object with account, sha256, label and optionally scopes and expires_at:
  {"account":"acc_1","sha256":"9f86d081…","label":"laptop","scopes":["chat:companion"]}
A file can be imported again: keys that exist already are skipped.`,
		takes: "account sha256 label file scope expires wait",
		exclusions: func(cmd *cobra.Command) {
			cmd.MarkFlagsOneRequired("sha256", "file")
			cmd.MarkFlagsRequiredTogether("account", "sha256", "label")
			for _, name := range []string{"sha256", "account", "label", "scope", "expires"} {
				cmd.MarkFlagsMutuallyExclusive("file", name)
			}
		},
		requests:  one(func(o options) operatorapi.Request { return operatorapi.ImportKey(o.account, o.sha256, o.newKey()) }),
		ifUnknown: "repeat it: if it was made, the API responds with 409",
	},
	{name: "key list", short: "List the keys of an account", needs: "account", list: listKeys},
	{name: "key get", short: "Show a key", needs: "id", requests: byID(operatorapi.GetKey)},
	{
		name: "key revoke", short: "Revoke a key permanently",
		needs: "id", takes: "chain wait",
		requests: one(func(o options) operatorapi.Request {
			if o.chain {
				return operatorapi.RevokeChain(o.id)
			}
			return operatorapi.RevokeKey(o.id)
		}),
	},
	{
		name: "key roll", short: "Replace a key by a new one, and print that like key mint",
		needs: "id", takes: "grace wait",
		requests:  one(func(o options) operatorapi.Request { return operatorapi.RollKey(o.id, o.grace) }),
		ifUnknown: lostSuccessor,
	},
	{name: "key grant", short: "Add scopes to a key", needs: "id scope", takes: "wait", requests: eachScope(operatorapi.GrantScope)},
	{name: "key ungrant", short: "Remove scopes from a key", needs: "id scope", takes: "wait", requests: eachScope(operatorapi.UngrantScope)},
	{name: "key usage", short: "List how often a key was used in each hour", needs: "id", list: listUsage},
	{name: "session", group: access, short: "Create and end sessions"},
	{
		name: "session mint", short: "Create a session and print its token once, alone on standard output",
		needs: "account", takes: "ttl",
		requests:  one(func(o options) operatorapi.Request { return operatorapi.MintSession(o.account, o.ttl) }),
		ifUnknown: lostSession,
	},
	{name: "session end", short: "End a session permanently", needs: "id", takes: "wait", requests: byID(operatorapi.EndSession)},
	{name: "sidecar", group: operation, short: "List sidecars, and forget those that are gone"},
	{name: "sidecar list", short: "List the sidecars that may still use cached credentials", list: listSidecars},
	{
		name: "sidecar forget", short: "Remove a sidecar that is known to be gone, so that no change waits for it",
		needs:     "name",
		requests:  one(func(o options) operatorapi.Request { return operatorapi.ForgetSidecar(o.name) }),
		ifUnknown: "repeat it: if it was made, the API responds with 404",
	},
	{name: "audit", group: operation, short: "List all changes, newest first", takes: "account key", list: listEvents},
}

func byID(request func(id string) operatorapi.Request) func(options) []operatorapi.Request {
	return one(func(o options) operatorapi.Request { return request(o.id) })
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
