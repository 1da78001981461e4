package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Canaries is a set of secrets that must not appear in any output. The same applies to their digests, in any encoding. It
// is safe for concurrent use.
type Canaries struct {
	mu      sync.Mutex
	forms   map[string]string // descriptions by the text that must not appear
	digests map[string]bool   // raw digests, which a database may contain
	lengths map[int]bool      // of the texts
	starts  [1 << 20]bool     // hashes of the first four bytes of the texts
}

// NewCanaries returns an empty set.
func NewCanaries() *Canaries {
	return &Canaries{forms: map[string]string{}, digests: map[string]bool{}, lengths: map[int]bool{}}
}

// Add adds a secret of at least 8 bytes.
func (c *Canaries) Add(plaintext string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	digest := sha256.Sum256([]byte(plaintext))
	c.add(plaintext, "the plaintext")
	c.add(hex.EncodeToString(digest[:]), "the hex digest")
	c.add(strings.ToUpper(hex.EncodeToString(digest[:])), "the hex digest")
	// Without padding, so that it is found with and without.
	c.add(base64.RawStdEncoding.EncodeToString(digest[:]), "the base64 digest")
	c.add(base64.RawURLEncoding.EncodeToString(digest[:]), "the base64 digest")
	c.add(base64.RawStdEncoding.EncodeToString([]byte(plaintext)), "the base64 plaintext")
	c.add(string(digest[:]), "the raw digest")
	c.digests[string(digest[:])] = true
}

func (c *Canaries) add(text, what string) {
	c.forms[text] = what
	c.lengths[len(text)] = true
	c.starts[hashStart([]byte(text))] = true
}

// hashStart hashes the first four bytes. Search skips most positions by it.
func hashStart(text []byte) uint32 {
	return (binary.LittleEndian.Uint32(text) * 2654435761) >> 12
}

// Search returns an error for each form of a canary that the text contains. Raw digests count unless they are allowed.
func (c *Canaries) Search(where string, text []byte, rawAllowed bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string]bool{}
	for i := 0; i+4 <= len(text); i++ {
		if !c.starts[hashStart(text[i:])] {
			continue
		}
		for length := range c.lengths {
			if i+length > len(text) {
				continue
			}
			what, ok := c.forms[string(text[i:i+length])]
			if ok && (!rawAllowed || !c.digests[string(text[i:i+length])]) {
				found[what] = true
			}
		}
	}
	var errs []error
	for what := range found {
		errs = append(errs, fmt.Errorf("%s contains %s of a canary", where, what))
	}
	return errors.Join(errs...)
}

// pages are those of an admin listener.
var pages = []string{
	"/metrics", "/readyz", "/livez",
	"/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1", "/debug/pprof/cmdline",
	"/debug/pprof/heap", "/debug/pprof/mutex?debug=1", "/debug/pprof/block?debug=1", "/debug/pprof/threadcreate?debug=1",
}

// SearchPages searches the admin pages of a running process for canaries.
func (tb *Testbed) SearchPages(ctx context.Context, p *Process) error {
	var errs []error
	for _, page := range pages {
		text, err := Get(ctx, p.Admin()+page)
		if err == nil {
			err = tb.Canaries.Search(p.Name+" "+page, text, false)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// searchFiles searches the files of the testbed for canaries: logs and the database with its journals. It leaves out the
// token files.
func (tb *Testbed) searchFiles() error {
	var errs []error
	searched := 0
	err := filepath.WalkDir(tb.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(path, ".token") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		searched++
		name := filepath.Base(path)
		errs = append(errs, tb.Canaries.Search(name, text, strings.HasPrefix(name, "keys.db")))
		return nil
	})
	if searched == 0 {
		errs = append(errs, errors.New("no file was searched for canaries"))
	}
	return errors.Join(append(errs, err)...)
}
