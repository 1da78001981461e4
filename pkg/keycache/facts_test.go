package keycache_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// fact is the part of a credential's record that a decision needs.
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

// change is one change of the log, and the progress that the key API has reported.
type change struct {
	revision  int64
	effective bool      // reported so
	by        time.Time // earliest effective_by, by the key API's clock
	// unproven changes have no guarantee: the store was restored without a new epoch, so the log
	// reuses revisions that sidecars have acknowledged, or does not have live sidecars on record. See world.restore.
	unproven bool
	lost     bool // by a restore: its progress is not requested any longer
}

// effectiveAt reports whether no sidecar may act on the facts before the change, at a moment of the
// key API's clock.
func (c *change) effectiveAt(now time.Time) bool {
	return !c.unproven && (c.effective || !c.by.IsZero() && !now.Before(c.by))
}

// observe records reported progress.
func (c *change) observe(effective bool, by *time.Time) {
	c.effective = c.effective || effective
	if by != nil && (c.by.IsZero() || by.Before(c.by)) {
		c.by = *by
	}
}

// version is a fact and the change that made it.
type version struct {
	fact
	by *change // nil: the first version
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

func (k *key) current() fact { return k.history[len(k.history)-1].fact }

func (k *key) set(f fact, by *change) { k.history = append(k.history, version{f, by}) }

// oldest returns the oldest version that a check which begins now may rest on: no change after it is
// effective. This is the whole guarantee, for allows and denials alike.
func (k *key) oldest(now time.Time) int {
	for i := len(k.history) - 1; i > 0; i-- {
		if k.history[i].by.effectiveAt(now) {
			return i
		}
	}
	return 0
}

// hadSince reports whether the fact was true in the version or a later one.
func (k *key) hadSince(f fact, oldest int) bool {
	return slices.ContainsFunc(k.history[oldest:], func(v version) bool { return v.fact == f })
}
