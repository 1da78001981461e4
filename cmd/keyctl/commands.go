package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// command is one row of the table. One of requests, list and own is set.
type command struct {
	name  string   // one or two words
	form  string   // "", or the flag that chooses this row among those of the same name
	does  string   // for the help
	needs []string // flags without which it cannot be done
	takes []string // flags that may be given
	// requests makes what is to be sent, one after the other; the last answer is shown.
	requests func(options) []operatorapi.Request
	list     func(context.Context, *operatorapi.Client, options) (listing, error)
	own      func(*session, context.Context) int // carries it out by itself, and returns the exit code
	// doubt is what to do when nobody knows whether the change was made.
	doubt string
}

const (
	repeatable    = "the same command can be repeated without harm"
	lostKey       = "if it was, there is a key now that nobody has the plaintext of: find it with `keyctl key list` and revoke it"
	lostSession   = "if it was, there is a session now that nobody has the token of: find it with `keyctl audit` and end it"
	lostSuccessor = "if it was, the old key is revoked or ends after the grace, and nobody has the plaintext of its successor:\n" +
		"  find that with `keyctl audit -key` and the old id, and revoke or roll it"
)

// commands is everything that keyctl can do.
var commands = []command{
	{
		name: "account create", does: "make an account",
		needs: []string{"name"}, takes: []string{"id"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.CreateAccount(o.id, o.name) }),
		doubt:    "look with `keyctl account list` before you repeat it",
	},
	{
		name: "account get", does: "show an account", needs: []string{"id"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.GetAccount(o.id) }),
	},
	{name: "account list", does: "list all accounts", list: listAccounts},
	{
		name: "account terminate", does: "put all keys and sessions of an account out of force",
		needs: []string{"id"}, takes: []string{"wait"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.TerminateAccount(o.id) }),
		doubt:    repeatable,
	},
	{
		name: "account reinstate", does: "take a termination back",
		needs: []string{"id"}, takes: []string{"wait"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.ReinstateAccount(o.id) }),
		doubt:    repeatable,
	},
	{
		name: "key mint", does: "make a key; it is printed once, alone on standard output",
		needs: []string{"account", "label"}, takes: []string{"scope", "expires", "wait"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.MintKey(o.account, o.newKey()) }),
		doubt:    lostKey,
	},
	{
		name: "key import", does: "take up a key that exists elsewhere, by its SHA-256",
		needs: []string{"account", "sha256", "label"}, takes: []string{"scope", "expires", "wait"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.ImportKey(o.account, o.sha256, o.newKey()) }),
		doubt:    "repeat it: if it was made, the answer is 409",
	},
	{
		name: "key import", form: "file", does: "take up many of them, from a file with a JSON object in each line",
		needs: []string{"file"}, takes: []string{"wait"},
		own: (*session).importFile,
	},
	{name: "key list", does: "list an account's keys", needs: []string{"account"}, list: listKeys},
	{
		name: "key get", does: "show a key", needs: []string{"id"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.GetKey(o.id) }),
	},
	{
		name: "key revoke", does: "put a key out of force for good",
		needs: []string{"id"}, takes: []string{"chain", "wait"},
		requests: one(func(o options) operatorapi.Request {
			if o.chain {
				return operatorapi.RevokeChain(o.id)
			}
			return operatorapi.RevokeKey(o.id)
		}),
		doubt: repeatable,
	},
	{
		name: "key roll", does: "replace a key by a new one, which is printed as by key mint",
		needs: []string{"id"}, takes: []string{"grace", "wait"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.RollKey(o.id, o.grace) }),
		doubt:    lostSuccessor,
	},
	{
		name: "key grant", does: "give a key scopes",
		needs: []string{"id", "scope"}, takes: []string{"wait"},
		requests: eachScope(operatorapi.GrantScope), doubt: repeatable,
	},
	{
		name: "key ungrant", does: "take scopes from a key",
		needs: []string{"id", "scope"}, takes: []string{"wait"},
		requests: eachScope(operatorapi.UngrantScope), doubt: repeatable,
	},
	{name: "key usage", does: "list how often a key was used, by the hour", needs: []string{"id"}, list: listUsage},
	{
		name: "session mint", does: "begin a session; its token is printed once, alone on standard output",
		needs: []string{"account"}, takes: []string{"ttl"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.MintSession(o.account, o.ttl) }),
		doubt:    lostSession,
	},
	{
		name: "session end", does: "end a session for good",
		needs: []string{"id"}, takes: []string{"wait"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.EndSession(o.id) }),
		doubt:    repeatable,
	},
	{name: "sidecar list", does: "list the sidecars that may still act on what they have cached", list: listSidecars},
	{
		name: "sidecar forget", does: "have no change wait any longer for a sidecar that is known to be gone",
		needs:    []string{"name"},
		requests: one(func(o options) operatorapi.Request { return operatorapi.ForgetSidecar(o.name) }),
		doubt:    "repeat it: if it was made, the answer is 404",
	},
	{name: "audit", does: "list what was done, newest first", takes: []string{"account", "key"}, list: listEvents},
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

// findCommand looks a command up by its words; without one it tells what was found
// and what there is.
func findCommand(words []string) (*command, string) {
	if len(words) == 0 {
		return nil, "a command is missing; there are " + strings.Join(nouns(), ", ")
	}
	noun, verbs := words[0], verbsOf(words[0])
	if len(verbs) == 0 && !slices.Contains(nouns(), noun) {
		return nil, fmt.Sprintf("unknown command %s%s; there are %s", shown(noun), didYouMean("", nearest(noun, nouns())), strings.Join(nouns(), ", "))
	}
	name, rest := noun, words[1:]
	if len(verbs) > 0 {
		if len(rest) == 0 {
			return nil, fmt.Sprintf("%s needs one of %s behind it", noun, strings.Join(verbs, ", "))
		}
		name, rest = noun+" "+rest[0], rest[1:]
	}
	at := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if at < 0 {
		return nil, fmt.Sprintf("unknown command %s%s; %s has %s", shown(name), didYouMean(noun+" ", nearest(words[1], verbs)), noun, strings.Join(verbs, ", "))
	}
	if len(rest) > 0 {
		return nil, fmt.Sprintf("unexpected argument %s behind %q: ids and names are given with flags (see `keyctl %s -h`)", shown(rest[0]), name, name)
	}
	return &commands[at], ""
}

// nouns lists the first words of all commands, in the table's order.
func nouns() []string {
	var all []string
	for _, c := range commands {
		noun, _, _ := strings.Cut(c.name, " ")
		all = append(all, noun)
	}
	return slices.Compact(all)
}

// verbsOf lists what may stand behind a noun; nothing for an unknown noun and for a
// command of one word.
func verbsOf(noun string) []string {
	var verbs []string
	for _, c := range commands {
		if n, verb, two := strings.Cut(c.name, " "); two && n == noun {
			verbs = append(verbs, verb)
		}
	}
	return slices.Compact(verbs)
}
