package storetest

import (
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func (m *model) revokeKey(id, account string) string {
	k := m.key(id)
	if k == nil || (account != "" && k.Account != account) {
		return notFound
	}
	m.revoke(k)
	return done
}

// revoke tells whether the key was not revoked before.
func (m *model) revoke(k *keystore.Key) bool {
	if k.State == credential.Revoked {
		return false
	}
	k.State, k.RevokedAt, k.Revision = credential.Revoked, m.now, m.change("", k.Digest)
	m.event(keystore.KeyRevoke, k.Account, k.ID)
	return true
}

func (m *model) revokeChain(id, account string) (chain keystore.RevokedChain, outcome string) {
	named := m.key(id)
	if named == nil || (account != "" && named.Account != account) {
		return chain, notFound
	}
	chain.Revoked = []string{}
	for _, k := range m.keys {
		if k == named || (k.Chain != "" && k.Chain == named.Chain) {
			if m.revoke(k) {
				chain.Revoked = append(chain.Revoked, k.ID)
			}
			chain.Revision = max(chain.Revision, k.Revision)
		}
	}
	chain.Key = *named
	return chain, done
}

func (m *model) rollKey(r keystore.Roll) string {
	old := m.key(r.ID)
	if old == nil || (r.Account != "" && old.Account != r.Account) {
		return notFound
	}
	if old.State != credential.Active || m.expired(old) || old.ReplacedBy != "" || m.account(old.Account).State != credential.Active || m.fact(r.Digest).Found {
		return conflict
	}
	if old.Chain == "" {
		old.Chain = old.ID
	}
	next := *old
	next.ID, next.Digest, next.Hint, next.CreatedAt, next.LastUsedAt = r.NewID, r.Digest, r.Hint, m.now, time.Time{}
	next.Revision = m.change("", r.Digest)
	detail := []string{"successor", r.NewID, "grace_seconds", strconv.Itoa(int(r.Grace / time.Second))}
	var ended []string
	for _, k := range m.keys {
		if k != old && k.Chain == old.Chain && k.State == credential.Active && !m.expired(k) {
			k.State, k.RevokedAt, k.Revision = credential.Revoked, m.now, m.change("", k.Digest)
			ended = append(ended, k.ID)
		}
	}
	if len(ended) > 0 {
		detail = append(detail, "revoked", strings.Join(ended, " "))
	}
	m.keys = append(m.keys, &next)
	old.ReplacedBy, old.Revision = next.ID, m.change("", old.Digest)
	if r.Grace == 0 {
		old.State, old.RevokedAt = credential.Revoked, m.now
	} else if end := m.now.Add(r.Grace); old.ExpiresAt.IsZero() || old.ExpiresAt.After(end) {
		old.ExpiresAt = end
	}
	m.event(keystore.KeyRoll, old.Account, old.ID, detail...)
	return done
}
