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
	// Load adds the rows to the table, in their order, in a transaction of Mutate. The values
	// are those of the driver: string, int64, []byte and nil.
	Load(t *Tx, table string, columns []string, rows [][]any) error
}

// ImportKeys implements keystore.Admin.
func (s *Core) ImportKeys(ctx context.Context, actor string, keys []keystore.NewKey) (keystore.Imported, error) {
	if len(keys) > keystore.MaxImport {
		return keystore.Imported{}, fmt.Errorf("import keys: %d at once, at most %d", len(keys), keystore.MaxImport)
	}
	return Mutate(ctx, s.engine, "import keys", actor, func(t *Tx) (keystore.Imported, error) {
		there, err := s.lookAround(t, keys)
		if err != nil {
			return keystore.Imported{}, err
		}
		fresh, done, err := there.sift(keys)
		if err != nil || len(fresh) == 0 {
			return done, err
		}
		done.Revision, err = s.load(t, keys, fresh, there.accounts)
		return done, err
	})
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

// lookAround asks four times, however long the list is.
func (s *Core) lookAround(t *Tx, keys []keystore.NewKey) (*surroundings, error) {
	var accounts, ids []string
	digests := make([]credential.Digest, len(keys))
	there := &surroundings{
		accounts: map[string]owner{}, keys: map[credential.Digest]holder{}, sessions: map[credential.Digest]bool{}, ids: map[string]bool{},
	}
	for i, k := range keys {
		if _, seen := there.accounts[k.Account]; !seen {
			there.accounts[k.Account] = owner{err: keystore.ErrNotFound}
			accounts = append(accounts, k.Account)
		}
		ids = append(ids, k.ID)
		digests[i] = k.Digest
	}
	read := func(query, condition string, arg any, each func(row Scanner) error) {
		if t.Err == nil {
			t.Err = eachRow(t.Ctx, t, each, query+" WHERE "+condition, arg)
		}
	}
	condition, arg := s.engine.AmongTexts("id", accounts)
	read(selectAccounts, condition, arg, func(row Scanner) error {
		var seq int64
		a, err := scanAccount(row, &seq)
		there.accounts[a.ID] = owner{seq, living(a)}
		return err
	})
	condition, arg = s.engine.AmongDigests("k.digest", digests)
	read("SELECT k.digest, a.id, k.revision FROM keys k JOIN accounts a ON a.seq = k.account", condition, arg, func(row Scanner) error {
		var d Digest
		var h holder
		err := row.Scan(&d, &h.account, &h.revision)
		there.keys[credential.Digest(d)] = h
		return err
	})
	condition, arg = s.engine.AmongDigests("digest", digests)
	read("SELECT digest FROM sessions", condition, arg, func(row Scanner) error {
		var d Digest
		err := row.Scan(&d)
		there.sessions[credential.Digest(d)] = true
		return err
	})
	condition, arg = s.engine.AmongTexts("id", ids)
	read("SELECT id FROM keys", condition, arg, func(row Scanner) error {
		var id string
		err := row.Scan(&id)
		there.ids[id] = true
		return err
	})
	return there, t.Err
}

// eachRow calls each for every row of a query.
func eachRow(ctx context.Context, q Querier, each func(row Scanner) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// sift returns the places of the keys that are new, or all that is wrong.
func (there *surroundings) sift(keys []keystore.NewKey) (fresh []int, done keystore.Imported, err error) {
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
		fresh = append(fresh, i)
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

// load writes the keys that are new as CreateKey does, and returns the last revision.
func (s *Core) load(t *Tx, keys []keystore.NewKey, fresh []int, accounts map[string]owner) (last int64, err error) {
	err = t.QueryRowContext(t.Ctx, "UPDATE head SET revision = revision + ? RETURNING revision", len(fresh)).Scan(&last)
	if err != nil {
		return 0, err
	}
	t.Moved = true
	at := t.Now.UnixMicro()
	logs, rows, events := make([][]any, len(fresh)), make([][]any, len(fresh)), make([][]any, len(fresh))
	for i, place := range fresh {
		k := t.created(keys[place])
		k.Revision = last - int64(len(fresh)-1-i)
		digest := keys[place].Digest[:]
		expires, _ := Stamp(k.ExpiresAt).Value()
		detail, err := createdDetail(k).Value()
		if err != nil {
			return 0, err
		}
		logs[i] = []any{k.Revision, at, digest}
		rows[i] = []any{k.ID, accounts[k.Account].seq, digest, k.Label, k.Hint, k.Scopes.String(), at, k.CreatedBy, expires, k.Revision}
		events[i] = []any{at, t.Actor, string(keystore.KeyImport), k.Account, k.ID, detail}
	}
	if err := s.engine.Load(t, "log", logColumns, logs); err != nil {
		return 0, err
	}
	if err := s.engine.Load(t, "keys", keyColumns, rows); err != nil {
		return 0, err
	}
	return last, s.engine.Load(t, "events", eventColumns, events)
}
