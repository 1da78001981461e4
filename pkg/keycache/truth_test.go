package keycache_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// fact is what is so about a credential, as far as a decision needs it.
type fact struct {
	found, revoked, terminated, chat bool
}

func (f fact) String() string {
	if !f.found {
		return "unknown"
	}
	return fmt.Sprintf("{revoked:%t terminated:%t chat:%t}", f.revoked, f.terminated, f.chat)
}

func factOf(rec credential.Record, found bool) fact {
	if !found {
		return fact{}
	}
	return fact{
		found:      true,
		revoked:    rec.State == credential.Revoked,
		terminated: rec.Account.State == credential.Terminated,
		chat:       rec.Scopes.Has("chat:companion"),
	}
}

// change is one event of the change log, and what the key API has told of it.
type change struct {
	revision int64
	told     bool      // it was said to be effective
	by       time.Time // the earliest effective_by that was told, by the key API's clock
	// unproven changes are promised nothing: the store was put back without a new epoch,
	// and the log uses revisions again that sidecars have acknowledged already, or does
	// not know of sidecars that live. See world.restore.
	unproven bool
	lost     bool // by a restore: not to be asked about any more
}

// over tells whether no sidecar may act any more on what was so before the change, at
// that moment of the key API's clock.
func (c *change) over(now time.Time) bool {
	return !c.unproven && (c.told || !c.by.IsZero() && !now.Before(c.by))
}

// hear notes what the key API tells.
func (c *change) hear(effective bool, by *time.Time) {
	c.told = c.told || effective
	if by != nil && (c.by.IsZero() || by.Before(c.by)) {
		c.by = *by
	}
}

// version is what became so of a credential by a change.
type version struct {
	fact
	by *change // nil: from the beginning
}

// key is one credential of the model.
type key struct {
	name    string
	digest  credential.Digest
	account string
	id      string // in the store; "" while unknown
	history []version
}

func newKey(name, account string) *key {
	return &key{name: name, account: account, digest: credential.NewSecret(name).Digest(), history: []version{{}}}
}

func (k *key) now() fact { return k.history[len(k.history)-1].fact }

func (k *key) become(f fact, by *change) { k.history = append(k.history, version{f, by}) }

// oldest is the first version that a check may rest on which begins now: no change
// after it is over. This is the whole promise, of allows and of denials alike.
func (k *key) oldest(now time.Time) int {
	for i := len(k.history) - 1; i > 0; i-- {
		if k.history[i].by.over(now) {
			return i
		}
	}
	return 0
}

// was tells whether the fact was so in the version or after it.
func (k *key) was(f fact, oldest int) bool {
	return slices.ContainsFunc(k.history[oldest:], func(v version) bool { return v.fact == f })
}
