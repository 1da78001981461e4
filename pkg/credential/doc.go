// Package credential holds the words that everything else speaks in: the
// plaintext of a credential (Secret), its SHA-256 (Digest), the facts about it
// (Record, Account, Scopes), and the format of the keys and session tokens that
// the key API mints. It stands on the standard library alone and does no I/O but
// reading random bytes.
package credential
