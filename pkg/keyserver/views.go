package keyserver

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// The objects as the operators' and owners' sides show them, fields in the order of
// the contract. None of them has a place for a digest.

type accountView struct {
	ID           string     `json:"id"`
	Name         string     `json:"name"`
	State        string     `json:"state"`
	CreatedAt    time.Time  `json:"created_at"`
	TerminatedAt *time.Time `json:"terminated_at"`
}

func viewAccount(a keystore.Account) accountView {
	return accountView{
		ID:           a.ID,
		Name:         a.Name,
		State:        a.State.String(),
		CreatedAt:    a.CreatedAt.UTC(),
		TerminatedAt: moment(a.TerminatedAt),
	}
}

type keyView struct {
	ID         string     `json:"id"`
	Account    string     `json:"account"`
	Label      string     `json:"label"`
	Hint       *string    `json:"hint"` // null for an imported key
	Scopes     []string   `json:"scopes"`
	State      string     `json:"state"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedBy  string     `json:"created_by"`
	ExpiresAt  *time.Time `json:"expires_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	ReplacedBy *string    `json:"replaced_by"` // null for a key that was not rolled
}

func viewKey(k keystore.Key) keyView {
	v := keyView{
		ID:         k.ID,
		Account:    k.Account,
		Label:      k.Label,
		Scopes:     k.Scopes.List(),
		State:      k.State.String(),
		CreatedAt:  k.CreatedAt.UTC(),
		CreatedBy:  k.CreatedBy,
		ExpiresAt:  moment(k.ExpiresAt),
		RevokedAt:  moment(k.RevokedAt),
		LastUsedAt: moment(k.LastUsedAt),
	}
	if k.Hint != "" {
		v.Hint = &k.Hint
	}
	if k.ReplacedBy != "" {
		v.ReplacedBy = &k.ReplacedBy
	}
	return v
}

type sessionView struct {
	ID        string    `json:"id"`
	Account   string    `json:"account"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

func viewSession(s keystore.Session) sessionView {
	return sessionView{ID: s.ID, Account: s.Account, CreatedAt: s.CreatedAt.UTC(), ExpiresAt: s.ExpiresAt.UTC()}
}

type changeView struct {
	Revision    int64      `json:"revision"`
	Effective   bool       `json:"effective"`
	EffectiveBy *time.Time `json:"effective_by"`
	// What follows is for operators only: the names of sidecars are what protects their
	// acknowledgements.
	Waiting    *int     `json:"waiting,omitzero"`
	WaitingFor []string `json:"waiting_for,omitzero"` // not nil for operators
}

// viewChange shows the progress of a change to the caller.
func viewChange(c *call, revision int64, p keystore.Progress) changeView {
	v := changeView{
		Revision:    revision,
		Effective:   p.Effective,
		EffectiveBy: moment(p.EffectiveBy),
	}
	if c.operates() {
		v.Waiting, v.WaitingFor = &p.Waiting, p.WaitingFor
	}
	return v
}

type sidecarView struct {
	Name        string    `json:"name"`
	Revision    int64     `json:"revision"`
	LeaseEndsAt time.Time `json:"lease_ends_at"`
	StaleEndsAt time.Time `json:"stale_ends_at"`
}

func viewSidecar(s keystore.Sidecar) sidecarView {
	return sidecarView{Name: s.Name, Revision: s.Revision, LeaseEndsAt: s.LeaseEndsAt.UTC(), StaleEndsAt: s.StaleEndsAt.UTC()}
}

type eventView struct {
	At      time.Time         `json:"at"`
	Actor   string            `json:"actor"`
	Action  string            `json:"action"`
	Account string            `json:"account"`
	Key     *string           `json:"key"` // null where the change is not about a key
	Detail  map[string]string `json:"detail"`
}

func viewEvent(e keystore.Event) eventView {
	v := eventView{At: e.At.UTC(), Actor: e.Actor, Action: string(e.Action), Account: e.Account, Detail: e.Detail}
	if e.Key != "" {
		v.Key = &e.Key
	}
	return v
}

// moment returns nil for the zero time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// views makes the views of a list, an empty one for none.
func views[T, V any](list []T, view func(T) V) []V {
	out := make([]V, len(list))
	for i, item := range list {
		out[i] = view(item)
	}
	return out
}

// The answers that several operations give.

type accountChanged struct {
	Account accountView `json:"account"`
	Change  changeView  `json:"change"`
}

type keyChanged struct {
	Key    keyView    `json:"key"`
	Change changeView `json:"change"`
}

type chainRevoked struct {
	Key     keyView    `json:"key"`
	Revoked []string   `json:"revoked"`
	Change  changeView `json:"change"`
}

type keyMinted struct {
	Key       keyView    `json:"key"`
	Plaintext shown      `json:"plaintext"`
	Change    changeView `json:"change"`
}

type keyRolled struct {
	Key       keyView    `json:"key"`
	Plaintext shown      `json:"plaintext"`
	Replaced  keyView    `json:"replaced"`
	Change    changeView `json:"change"`
}

type keyList struct {
	Keys []keyView `json:"keys"`
	Next *string   `json:"next"`
}

type (
	accountAnswer struct {
		Account accountView `json:"account"`
	}
	keyAnswer struct {
		Key keyView `json:"key"`
	}
	changeAnswer struct {
		Change changeView `json:"change"`
	}
)

// cursor returns nil after the last page.
func cursor(next string) *string {
	if next == "" {
		return nil
	}
	return &next
}

// minted is a new credential: its plaintext and what may be kept of it.
func minted(kind credential.Kind) (plaintext shown, digest credential.Digest, hint string) {
	secret := credential.Mint(kind)
	return shown{secret}, secret.Digest(), credential.Hint(secret)
}
