package keyserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const (
	importPath = "/v1/keys/import"
	// partTimeout is how long the lines of one part may take to come.
	partTimeout = time.Minute
	// partFill is when a part is imported although it is not full: where keys come slowly, those
	// that are there need not wait.
	partFill = 2 * time.Second
	// maxMistakes is how many are told at once.
	maxMistakes = 10
)

// partLimits are those of the parts of an import.
type partLimits struct {
	keys          int
	fill, timeout time.Duration
}

// importBody is what an import says of one key.
type importBody struct {
	SHA256 *string `json:"sha256"`
	keyBody
}

// imported checks the fields.
func (b importBody) imported(account string, catalogue Catalogue) (keystore.NewKey, error) {
	if b.SHA256 == nil {
		return keystore.NewKey{}, badRequest("sha256", "is required")
	}
	digest, err := credential.ParseDigest(strings.ToLower(*b.SHA256))
	if err != nil {
		return keystore.NewKey{}, badRequest("sha256", "must be 64 hexadecimal digits") // whatever it is, a plaintext too, is not repeated
	}
	if err := catalogue.check("scopes", b.Scopes...); err != nil {
		return keystore.NewKey{}, err
	}
	key, err := b.newKey(account)
	key.Digest, key.Imported = digest, true
	return key, err
}

// importLine is one line of an import of many.
type importLine struct {
	Account *string `json:"account"`
	importBody
}

// importProgress is told after each part.
type importProgress struct {
	Lines    int `json:"lines"`
	Imported int `json:"imported"`
	Existing int `json:"existing"`
}

// importDone is told last.
type importDone struct {
	importProgress
	Change changeView `json:"change"`
}

// String is what an error says of the parts before it.
func (p importProgress) String() string {
	if p.Lines == 0 {
		return "nothing is imported"
	}
	return fmt.Sprintf("the lines up to %d are imported (%d new, %d there before), none behind them", p.Lines, p.Imported, p.Existing)
}

// importKeys takes up the keys of a stream, part by part: each is one transaction, so that
// other changes get in between, and while one is written the next is read.
func (s *Server) importKeys(ctx context.Context, c *call) (answer, error) {
	parts := make(chan importPart)
	c.stream.start(func() { s.readParts(c.stream, parts) })
	var sum importProgress
	var revision int64
	for part := range parts {
		done, err := s.importPart(ctx, c, part)
		if err != nil {
			return answer{}, &unfinished{err, sum.String()}
		}
		sum.Lines, sum.Imported, sum.Existing = part.end, sum.Imported+done.Imported, sum.Existing+done.Existing
		revision = max(revision, done.Revision)
		told, err := answer{body: sum}.encode()
		if err == nil {
			err = c.stream.tell(told)
		}
		if err != nil { // the client has gone, or does not listen
			return answer{}, &unfinished{badRequest("answer", "could not be written"), sum.String()}
		}
	}
	c.stream.over()
	change, err := s.reached(ctx, c, revision)
	if err != nil {
		return answer{}, &unfinished{err, sum.String()}
	}
	return ok(importDone{sum, change})
}

// importPart imports one part, or tells what is wrong with it.
func (s *Server) importPart(ctx context.Context, c *call, part importPart) (keystore.Imported, error) {
	switch {
	case part.wrong.status != 0:
		return keystore.Imported{}, part.wrong.problem()
	case c.stream.drained():
		return keystore.Imported{}, &problem{
			status: http.StatusServiceUnavailable, message: "The key API is stopping", header: map[string]string{"Retry-After": "1"},
		}
	case part.err != nil:
		return keystore.Imported{}, badRequest("body", "could not be read to its end")
	}
	if len(part.keys) == 0 { // blank lines
		return keystore.Imported{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	done, err := s.store.ImportKeys(ctx, c.actor, part.keys)
	var refused keystore.ImportErrors
	if errors.As(err, &refused) {
		slices.SortFunc(refused, func(a, b *keystore.ImportError) int { return part.lines[a.Index] - part.lines[b.Index] })
		for _, one := range refused {
			part.wrong.add(part.lines[one.Index], one.Err)
		}
		err = part.wrong.problem()
	}
	return done, err
}

// importPart is the keys that one transaction takes.
type importPart struct {
	keys  []keystore.NewKey
	lines []int // of the keys
	end   int   // the last line that was read, also a blank one
	wrong wrongLines
	err   error // why the rest of the body cannot be read
}

// readParts reads the body to its end, or to the first part that cannot be imported.
func (s *Server) readParts(in *stream, parts chan<- importPart) {
	defer close(parts)
	for more := true; more; {
		before := in.read
		var part importPart
		part, more = s.readPart(in)
		if part.end == before && part.err == nil {
			return
		}
		select {
		case parts <- part:
		case <-in.stop:
			return
		}
	}
}

// readPart reads the lines of one part, and tells whether there may be more.
func (s *Server) readPart(in *stream) (part importPart, more bool) {
	in.allow(s.parts.timeout)
	catalogue := s.settings.Load().Catalogue
	for began := time.Now(); len(part.lines) < s.parts.keys && time.Since(began) < s.parts.fill; {
		line, err := in.line()
		part.end = in.read
		switch {
		case errors.Is(err, io.EOF):
			part.order()
			return part, false
		case errors.Is(err, errLineTooLong):
			part.wrong.add(in.read, &problem{
				status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("it may have at most %d bytes", maxLine),
			})
			return part, false
		case err != nil:
			part.err = err
			return part, false
		}
		key, err := readKey(line, catalogue)
		if err != nil {
			part.wrong.add(in.read, err)
		}
		part.keys, part.lines = append(part.keys, key), append(part.lines, in.read)
	}
	part.order()
	return part, part.wrong.status == 0
}

// order lets digests and ids rise, which spares the store's indexes a part of their work.
func (p *importPart) order() {
	sort.Sort((*byDigest)(p))
	ids := make([]string, len(p.keys))
	for i := range p.keys {
		ids[i] = p.keys[i].ID
	}
	slices.Sort(ids)
	for i := range p.keys {
		p.keys[i].ID = ids[i]
	}
}

// byDigest implements sort.Interface.
type byDigest importPart

func (p *byDigest) Len() int { return len(p.keys) }
func (p *byDigest) Less(i, j int) bool {
	return bytes.Compare(p.keys[i].Digest[:], p.keys[j].Digest[:]) < 0
}

func (p *byDigest) Swap(i, j int) {
	p.keys[i], p.keys[j] = p.keys[j], p.keys[i]
	p.lines[i], p.lines[j] = p.lines[j], p.lines[i]
}

func readKey(raw []byte, catalogue Catalogue) (keystore.NewKey, error) {
	var line importLine
	if err := decode(raw, &line); err != nil {
		return keystore.NewKey{}, err
	}
	switch {
	case line.Account == nil:
		return keystore.NewKey{}, badRequest("account", "is required")
	case !validID(*line.Account):
		return keystore.NewKey{}, badRequest("account", idRule)
	}
	return line.imported(*line.Account, catalogue)
}

// wrongLines are what is wrong with a part.
type wrongLines struct {
	status int // of the first; 0: nothing is wrong
	texts  []string
	more   int // than are told
}

func (m *wrongLines) add(line int, err error) {
	status, text := http.StatusBadRequest, err.Error()
	var refused *problem
	var conflict *keystore.Conflict
	switch {
	case errors.As(err, &refused):
		status = refused.status
	case errors.As(err, &conflict):
		status = http.StatusConflict
	case errors.Is(err, keystore.ErrNotFound):
		status, text = http.StatusNotFound, "No such account"
	}
	if m.status == 0 {
		m.status = status
	}
	if len(m.texts) == maxMistakes {
		m.more++
		return
	}
	if rest, whole := strings.CutPrefix(text, "body "); whole {
		text = "it " + rest
	}
	m.texts = append(m.texts, fmt.Sprintf("line %d: %s", line, text))
}

func (m *wrongLines) problem() error {
	text := strings.Join(m.texts, "; ")
	if m.more > 0 {
		text += fmt.Sprintf("; and %d more", m.more)
	}
	return &problem{status: m.status, message: text}
}

// unfinished is an error in the middle of a stream, with what was done before it.
type unfinished struct {
	cause  error
	before string
}

// Error implements error.
func (u *unfinished) Error() string { return u.cause.Error() + "; " + u.before }

// Unwrap gives errors.Is and errors.As the cause.
func (u *unfinished) Unwrap() error { return u.cause }
