package testbed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Canaries are secrets that must not show up anywhere, nor their whole digests in
// any spelling. It is safe for concurrent use.
type Canaries struct {
	mu      sync.Mutex
	count   int
	forms   map[string]string // what must not be seen, and what that is
	digests map[string]bool   // raw, which a database may hold
	lengths map[int]bool      // of forms
	begins  [1 << 20]bool     // whether a form may begin with four bytes of that hash
}

// NewCanaries makes an empty set.
func NewCanaries() *Canaries {
	return &Canaries{forms: map[string]string{}, digests: map[string]bool{}, lengths: map[int]bool{}}
}

// Add takes up a secret of at least 8 bytes.
func (c *Canaries) Add(plaintext string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	digest := sha256.Sum256([]byte(plaintext))
	c.form(plaintext, "a plaintext")
	c.form(hex.EncodeToString(digest[:]), "a digest in hex")
	c.form(strings.ToUpper(hex.EncodeToString(digest[:])), "a digest in hex")
	// Without the padding, so that it is found with and without.
	c.form(base64.RawStdEncoding.EncodeToString(digest[:]), "a digest in base64")
	c.form(base64.RawURLEncoding.EncodeToString(digest[:]), "a digest in base64")
	c.form(base64.RawStdEncoding.EncodeToString([]byte(plaintext)), "a plaintext in base64")
	c.form(string(digest[:]), "a raw digest")
	c.digests[string(digest[:])] = true
}

func (c *Canaries) form(text, what string) {
	c.forms[text] = what
	c.lengths[len(text)] = true
	c.begins[begin([]byte(text))] = true
}

// begin hashes the first four bytes, so that most places are passed over at once.
func begin(text []byte) uint32 {
	return (binary.LittleEndian.Uint32(text) * 2654435761) >> 12
}

// Search tells what of the canaries is in the text; raw digests count unless they
// are allowed there.
func (c *Canaries) Search(where string, text []byte, rawAllowed bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string]bool{}
	for i := 0; i+4 <= len(text); i++ {
		if !c.begins[begin(text[i:])] {
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
		errs = append(errs, fmt.Errorf("%s holds %s of a canary", where, what))
	}
	return errors.Join(errs...)
}

// shown are the pages that a program shows on its admin listener.
var shown = []string{
	"/metrics", "/readyz", "/livez",
	"/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1", "/debug/pprof/cmdline",
	"/debug/pprof/heap", "/debug/pprof/mutex?debug=1", "/debug/pprof/block?debug=1", "/debug/pprof/threadcreate?debug=1",
}

// SearchLive searches what a running process shows.
func (s *Site) SearchLive(ctx context.Context, p *Process) error {
	var errs []error
	for _, page := range shown {
		text, err := Get(ctx, p.Admin+page)
		if err == nil {
			err = s.Canaries.Search(p.Name+" "+page, text, false)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Get reads a page, whatever its status.
func Get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	return io.ReadAll(response.Body)
}

// searchFiles searches all that the programs have written: logs, and the database
// with what stands beside it. Only the site's own tokens have a plaintext in a file.
func (s *Site) searchFiles() error {
	var errs []error
	searched := 0
	err := filepath.WalkDir(s.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(path, ".token") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		searched++
		name := filepath.Base(path)
		errs = append(errs, s.Canaries.Search(name, text, strings.HasPrefix(name, "keys.db")))
		return nil
	})
	if searched == 0 {
		errs = append(errs, errors.New("there was no file to search for canaries"))
	}
	return errors.Join(append(errs, err)...)
}

// Metric reads one series of a process's metrics, as it is spelt on the page.
func (p *Process) Metric(ctx context.Context, series string) (float64, error) {
	text, err := Get(ctx, p.Admin+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte(series+" ")); ok {
			var v float64
			_, err := fmt.Sscan(string(value), &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("%s shows no %s", p.Name, series)
}
