package keycache

import (
	"sync/atomic"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// account is shared by the entries of one account: one store invalidates all of them.
type account struct {
	id      string
	changed atomic.Int64 // revision of its last change in this generation
	entries int          // that refer to it; Cache.mu guards it
}

// scopeSet is shared by the entries with equal scopes: credentials are many, sets of scopes few.
type scopeSet struct {
	scopes  credential.Scopes
	entries int // that refer to it; Cache.mu guards it
}

// joinAccount returns the account for a new entry. c.mu is held.
func (c *Cache) joinAccount(id string) *account {
	a := c.accounts[id]
	if a == nil {
		a = &account{id: id}
		c.accounts[id] = a
	}
	a.entries++
	return a
}

// joinScopes returns the set of scopes for a new entry, nil for the empty set. c.mu is held.
func (c *Cache) joinScopes(scopes credential.Scopes) *scopeSet {
	if scopes.Len() == 0 {
		return nil
	}
	name := scopes.String()
	s := c.scopeSets[name]
	if s == nil {
		s = &scopeSet{scopes: scopes}
		c.scopeSets[name] = s
	}
	s.entries++
	return s
}

// leave is called for every entry that leaves its shard. Accounts and sets without entries are
// deleted, so there are no more of them than entries. c.mu is held.
func (c *Cache) leave(e *entry) {
	if a := e.account; a != nil {
		if a.entries--; a.entries == 0 {
			delete(c.accounts, a.id)
		}
	}
	if s := e.scopes; s != nil {
		if s.entries--; s.entries == 0 {
			delete(c.scopeSets, s.scopes.String())
		}
	}
}
