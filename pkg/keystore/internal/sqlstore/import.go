package sqlstore

import (
	"context"
	"fmt"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Bulk is how an engine reads and writes many rows with few statements.
type Bulk interface {
	// AmongTexts is the condition that the column has one of the texts, and its one argument.
	AmongTexts(column string, texts []string) (condition string, arg any)
	// AmongDigests is the same of digests.
	AmongDigests(column string, digests []credential.Digest) (condition string, arg any)
	// Load adds n rows to the table, in their order, in a transaction of Mutate. The values
	// of row i are those of the driver: string, int64, []byte and nil; the slice is row's own, which
	// it may use for the next one.
	Load(t *Tx, table string, columns []string, n int, row func(i int) []any) error
	// Duplicate tells whether a unique index refused what was written.
	Duplicate(err error) bool
}

// ImportKeys implements keystore.Admin. Nearly always all keys are new, and so they are written
// at once: what is there already is looked up only where a unique index has found something.
func (s *Core) ImportKeys(ctx context.Context, actor string, keys []keystore.NewKey) (keystore.Imported, error) {
	if len(keys) > keystore.MaxImport {
		return keystore.Imported{}, fmt.Errorf("import keys: %d at once, at most %d", len(keys), keystore.MaxImport)
	}
	return Mutate(ctx, s.engine, "import keys", actor, func(t *Tx) (keystore.Imported, error) {
		if len(keys) == 0 {
			return keystore.Imported{}, nil
		}
		there, err := s.lookAround(t, keys)
		if err != nil {
			return keystore.Imported{}, err
		}
		if there.welcome(keys) {
			done, err := s.attempt(t, keys, there)
			if !s.engine.Duplicate(err) {
				return done, err
			}
		}
		if err := s.lookCloser(t, keys, there); err != nil {
			return keystore.Imported{}, err
		}
		fresh, done, err := there.sift(keys)
		if err != nil || len(fresh) == 0 {
			return done, err
		}
		done.Revision, err = s.load(t, fresh, there.accounts)
		return done, err
	})
}

// attempt writes all keys as new, or none.
func (s *Core) attempt(t *Tx, keys []keystore.NewKey, there *surroundings) (keystore.Imported, error) {
	t.Exec("SAVEPOINT attempt")
	if t.Err != nil {
		return keystore.Imported{}, t.Err
	}
	last, err := s.load(t, keys, there.accounts)
	if err == nil {
		return keystore.Imported{Imported: len(keys), Revision: last}, nil
	}
	if s.engine.Duplicate(err) {
		t.Exec("ROLLBACK TO SAVEPOINT attempt")
		t.Moved = false
		if t.Err != nil {
			err = t.Err
		}
	}
	return keystore.Imported{}, err
}

// surroundings are what is in the store already of what an import names.
type surroundings struct {
	accounts map[string]owner
	keys     map[credential.Digest]holder
	sessions map[credential.Digest]bool
	ids      map[string]bool // of keys
}

// owner is an account that may own new keys, or not.
type owner struct {
	seq int64
	err error // why it may not
}

// holder is the account that has a digest, with the revision of its key.
type holder struct {
	account  string
	revision int64
}

// lookAround reads what no index of the keys' own would tell: their accounts, and the sessions
// that have one of their digests.
func (s *Core) lookAround(t *Tx, keys []keystore.NewKey) (*surroundings, error) {
	there := &surroundings{
		accounts: map[string]owner{}, keys: map[credential.Digest]holder{}, sessions: map[credential.Digest]bool{}, ids: map[string]bool{},
	}
	var accounts []string
	for _, k := range keys {
		if _, seen := there.accounts[k.Account]; !seen {
			there.accounts[k.Account] = owner{err: keystore.ErrNotFound}
			accounts = append(accounts, k.Account)
		}
	}
	condition, arg := s.engine.AmongTexts("id", accounts)
	t.each(selectAccounts, condition, arg, func(row Scanner) error {
		var seq int64
		a, err := scanAccount(row, &seq)
		there.accounts[a.ID] = owner{seq, living(a)}
		return err
	})
	condition, arg = s.engine.AmongDigests("digest", digestsOf(keys))
	t.each("SELECT digest FROM sessions", condition, arg, func(row Scanner) error {
		var d Digest
		err := row.Scan(&d)
		there.sessions[credential.Digest(d)] = true
		return err
	})
	return there, t.Err
}

// lookCloser reads the keys that have one of the digests or ids.
func (s *Core) lookCloser(t *Tx, keys []keystore.NewKey, there *surroundings) error {
	condition, arg := s.engine.AmongDigests("k.digest", digestsOf(keys))
	t.each("SELECT k.digest, a.id, k.revision FROM keys k JOIN accounts a ON a.seq = k.account", condition, arg, func(row Scanner) error {
		var d Digest
		var h holder
		err := row.Scan(&d, &h.account, &h.revision)
		there.keys[credential.Digest(d)] = h
		return err
	})
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.ID
	}
	condition, arg = s.engine.AmongTexts("id", ids)
	t.each("SELECT id FROM keys", condition, arg, func(row Scanner) error {
		var id string
		err := row.Scan(&id)
		there.ids[id] = true
		return err
	})
	return t.Err
}

func digestsOf(keys []keystore.NewKey) []credential.Digest {
	digests := make([]credential.Digest, len(keys))
	for i, k := range keys {
		digests[i] = k.Digest
	}
	return digests
}

// each calls do for every row of a query, unless something failed before.
func (t *Tx) each(query, condition string, arg any, do func(row Scanner) error) {
	if t.Err != nil {
		return
	}
	rows, err := t.QueryContext(t.Ctx, query+" WHERE "+condition, arg)
	if err != nil {
		t.Err = err
		return
	}
	defer func() { _ = rows.Close() }()
	for t.Err == nil && rows.Next() {
		t.Err = do(rows)
	}
	if t.Err == nil {
		t.Err = rows.Err()
	}
}

// welcome tells whether all keys are taken if they are new.
func (there *surroundings) welcome(keys []keystore.NewKey) bool {
	for _, k := range keys {
		if there.accounts[k.Account].err != nil || there.sessions[k.Digest] {
			return false
		}
	}
	return true
}

// sift returns the keys that are new, or all that is wrong.
func (there *surroundings) sift(keys []keystore.NewKey) (fresh []keystore.NewKey, done keystore.Imported, err error) {
	var wrong keystore.ImportErrors
	for i, k := range keys {
		had, exists := there.keys[k.Digest]
		account := there.accounts[k.Account]
		var refused error
		switch {
		case account.seq == 0: // there is none
			refused = keystore.ErrNotFound
		case exists && had.account == k.Account:
			done.Existing++
			done.Revision = max(done.Revision, had.revision)
			continue
		case account.err != nil:
			refused = account.err
		case exists || there.sessions[k.Digest]:
			refused = digestExists()
		case there.ids[k.ID]:
			refused = idExists(k.ID)
		}
		if refused != nil {
			wrong = append(wrong, &keystore.ImportError{Index: i, Err: refused})
			continue
		}
		there.keys[k.Digest], there.ids[k.ID] = holder{account: k.Account}, true
		fresh = append(fresh, k)
	}
	if len(wrong) > 0 {
		return nil, keystore.Imported{}, wrong
	}
	done.Imported = len(fresh)
	return fresh, done, nil
}

var (
	logColumns   = []string{"revision", "at", "digest"}
	keyColumns   = []string{"id", "account", "digest", "label", "hint", "scopes", "created_at", "created_by", "expires_at", "revision"}
	eventColumns = []string{"at", "actor", "action", "account", "key", "detail"}
)

// load writes the keys as CreateKey does, and returns the last revision.
func (s *Core) load(t *Tx, keys []keystore.NewKey, accounts map[string]owner) (last int64, err error) {
	n := len(keys)
	err = t.QueryRowContext(t.Ctx, "UPDATE head SET revision = revision + ? RETURNING revision", n).Scan(&last)
	if err != nil {
		return 0, err
	}
	t.Moved = true
	at, before := t.Now.UnixMicro(), last-int64(n)
	row := make([]any, 0, len(keyColumns))
	// The keys first: it is theirs that an index may refuse.
	err = s.engine.Load(t, "keys", keyColumns, n, func(i int) []any {
		k := t.created(keys[i])
		expires, _ := Stamp(k.ExpiresAt).Value() // it never fails
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
		k := t.created(keys[i])
		detail, _ := createdDetail(k).Value() // texts always can be
		return append(row, at, t.Actor, string(keystore.KeyImport), k.Account, k.ID, detail)
	})
}
