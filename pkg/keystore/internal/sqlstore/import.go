package sqlstore

import (
	"context"
	"fmt"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Bulk reads and writes many rows with few statements.
type Bulk interface {
	// AmongTexts is the condition that the column has one of the texts, and its one argument.
	AmongTexts(column string, texts []string) (condition string, arg any)
	// AmongDigests is the same for digests.
	AmongDigests(column string, digests []credential.Digest) (condition string, arg any)
	// LockRows ends a SELECT in a transaction of Mutate, so that it locks its rows in their order against RecordUsage.
	LockRows() string
	// Load inserts n rows into the table, in their order, in a transaction of Mutate. Row i has values of the types string,
	// int64, []byte and nil. The slice belongs to row, which may use it again for the next one.
	Load(t *Tx, table string, columns []string, n int, row func(i int) []any) error
	// Duplicate reports whether a unique index refused a row.
	Duplicate(err error) bool
	// Refused reports whether the database refused a statement for its values, and rolled the transaction back.
	Refused(err error) bool
}

// ImportKeys implements keystore.Admin. Usually all keys are new, so it inserts them first, and reads what exists only if a
// unique index refuses a key.
func (s *Core) ImportKeys(ctx context.Context, actor string, keys []keystore.NewKey) (keystore.Imported, error) {
	if len(keys) > keystore.MaxImport {
		return keystore.Imported{}, fmt.Errorf("import keys: %d keys are too many: must be at most %d", len(keys), keystore.MaxImport)
	}
	return Mutate(ctx, s.engine, "import keys", actor, func(t *Tx) (keystore.Imported, error) {
		if len(keys) == 0 {
			return keystore.Imported{}, nil
		}
		found, err := s.findOwners(t, keys)
		if err != nil {
			return keystore.Imported{}, err
		}
		if found.allowsAll(keys) {
			done, err := s.attempt(t, keys, found)
			if !s.engine.Duplicate(err) {
				return done, err
			}
		}
		if err := s.findKeys(t, keys, found); err != nil {
			return keystore.Imported{}, err
		}
		fresh, done, err := found.selectNew(keys)
		if err != nil || len(fresh) == 0 {
			return done, err
		}
		done.Revision, err = s.load(t, fresh, found.accounts)
		return done, err
	})
}

// attempt inserts all keys as new, or none.
func (s *Core) attempt(t *Tx, keys []keystore.NewKey, found *existing) (keystore.Imported, error) {
	before := t.Head.Revision
	t.Exec("SAVEPOINT attempt")
	if t.Err != nil {
		return keystore.Imported{}, t.Err
	}
	last, err := s.load(t, keys, found.accounts)
	if err == nil {
		return keystore.Imported{Imported: len(keys), Revision: last}, nil
	}
	if s.engine.Duplicate(err) {
		t.Exec("ROLLBACK TO SAVEPOINT attempt")
		t.Head.Revision, t.Moved = before, false
		if t.Err != nil {
			err = t.Err
		}
	}
	return keystore.Imported{}, err
}

// existing has the rows of the store that an import names.
type existing struct {
	accounts map[string]owner
	keys     map[credential.Digest]holder
	sessions map[credential.Digest]bool
	ids      map[string]bool // of keys
}

// owner is the account of a new key.
type owner struct {
	seq int64 // 0: there is none
	err error // why it may not get keys
}

// holder is the account that has a digest, with the revision of its key.
type holder struct {
	account  string
	revision int64
}

// findOwners reads what no unique index of the keys checks: their accounts, and the sessions that have one of their
// digests.
func (s *Core) findOwners(t *Tx, keys []keystore.NewKey) (*existing, error) {
	found := &existing{
		accounts: map[string]owner{}, keys: map[credential.Digest]holder{}, sessions: map[credential.Digest]bool{}, ids: map[string]bool{},
	}
	var accounts []string
	for _, k := range keys {
		if _, seen := found.accounts[k.Account]; !seen {
			found.accounts[k.Account] = owner{err: keystore.ErrNotFound}
			accounts = append(accounts, k.Account)
		}
	}
	condition, arg := s.engine.AmongTexts("id", accounts)
	t.each(selectAccounts, condition, arg, func(row Scanner) error {
		var seq int64
		a, err := scanAccount(row, &seq)
		found.accounts[a.ID] = owner{seq, checkActive(a)}
		return err
	})
	condition, arg = s.engine.AmongDigests("digest", fieldOf(keys, digestOf))
	t.each("SELECT digest FROM sessions", condition, arg, func(row Scanner) error {
		d, err := scanOne[Digest](row)
		found.sessions[credential.Digest(d)] = true
		return err
	})
	return found, t.Err
}

// findKeys reads the keys that have one of the digests or ids.
func (s *Core) findKeys(t *Tx, keys []keystore.NewKey, found *existing) error {
	condition, arg := s.engine.AmongDigests("k.digest", fieldOf(keys, digestOf))
	t.each("SELECT k.digest, a.id, k.revision FROM keys k JOIN accounts a ON a.seq = k.account", condition, arg, func(row Scanner) error {
		var d Digest
		var h holder
		err := row.Scan(&d, &h.account, &h.revision)
		found.keys[credential.Digest(d)] = h
		return err
	})
	condition, arg = s.engine.AmongTexts("id", fieldOf(keys, func(k *keystore.NewKey) string { return k.ID }))
	t.each("SELECT id FROM keys", condition, arg, func(row Scanner) error {
		id, err := scanOne[string](row)
		found.ids[id] = true
		return err
	})
	return t.Err
}

// fieldOf returns one field of each key.
func fieldOf[T any](keys []keystore.NewKey, field func(k *keystore.NewKey) T) []T {
	all := make([]T, len(keys))
	for i := range keys {
		all[i] = field(&keys[i])
	}
	return all
}

func digestOf(k *keystore.NewKey) credential.Digest { return k.Digest }

// each calls do for each row of a query.
func (t *Tx) each(query, condition string, arg any, do func(row Scanner) error) {
	if t.Err == nil {
		_, t.Err = collect(t.Ctx, t, func(row Scanner) (struct{}, error) { return struct{}{}, do(row) }, query+" WHERE "+condition, arg)
	}
}

// allowsAll reports whether all keys are accepted if they are new.
func (found *existing) allowsAll(keys []keystore.NewKey) bool {
	for _, k := range keys {
		if found.accounts[k.Account].err != nil || found.sessions[k.Digest] {
			return false
		}
	}
	return true
}

// selectNew returns the keys that are new, or all mistakes.
func (found *existing) selectNew(keys []keystore.NewKey) (fresh []keystore.NewKey, done keystore.Imported, err error) {
	var mistakes keystore.ImportErrors
	for i, k := range keys {
		had, exists := found.keys[k.Digest]
		account := found.accounts[k.Account]
		var refused error
		switch {
		case account.seq == 0:
			refused = keystore.ErrNotFound
		case exists && had.account == k.Account:
			done.Existing++
			done.Revision = max(done.Revision, had.revision)
			continue
		case account.err != nil:
			refused = account.err
		case exists || found.sessions[k.Digest]:
			refused = digestExists()
		case found.ids[k.ID]:
			refused = idExists(k.ID)
		}
		if refused != nil {
			mistakes = append(mistakes, &keystore.ImportError{Index: i, Err: refused})
			continue
		}
		found.keys[k.Digest], found.ids[k.ID] = holder{account: k.Account}, true
		fresh = append(fresh, k)
	}
	if len(mistakes) > 0 {
		return nil, keystore.Imported{}, mistakes
	}
	done.Imported = len(fresh)
	return fresh, done, nil
}

var (
	logColumns   = []string{"revision", "at", "digest"}
	keyColumns   = []string{"id", "account", "digest", "label", "hint", "scopes", "created_at", "created_by", "expires_at", "revision"}
	eventColumns = []string{"at", "actor", "action", "account", "key", "detail"}
)

// load inserts keys as CreateKey does, and returns the last revision.
func (s *Core) load(t *Tx, keys []keystore.NewKey, accounts map[string]owner) (last int64, err error) {
	n := len(keys)
	if last = t.raise(n); t.Err != nil {
		return 0, t.Err
	}
	at, before := t.Now.UnixMicro(), last-int64(n)
	row := make([]any, 0, len(keyColumns))
	// Keys come first, because an index may refuse them.
	err = s.engine.Load(t, "keys", keyColumns, n, func(i int) []any {
		k := t.newKey(keys[i])
		expires, _ := Stamp(k.ExpiresAt).Value() // never fails
		return append(row, k.ID, accounts[k.Account].seq, keys[i].Digest[:], k.Label, k.Hint, k.Scopes.String(),
			at, k.CreatedBy, expires, before+1+int64(i))
	})
	if err != nil {
		return 0, err
	}
	err = s.engine.Load(t, "log", logColumns, n, func(i int) []any {
		return append(row, before+1+int64(i), at, keys[i].Digest[:])
	})
	if err != nil {
		return 0, err
	}
	return last, s.engine.Load(t, "events", eventColumns, n, func(i int) []any {
		k := t.newKey(keys[i])
		detail, _ := newKeyDetail(k).Value() // texts can always be encoded
		return append(row, at, t.Actor, string(keystore.KeyImport), k.Account, k.ID, detail)
	})
}
