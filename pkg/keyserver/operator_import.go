package keyserver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

const (
	// partTimeout is how long the lines of one part may take to arrive. Smaller rejects slow links; larger lets a
	// client that sends nothing keep its connection for longer.
	partTimeout = time.Minute
	// partFill is the time after which a part is imported although it is not full. Smaller makes more transactions
	// of a slow stream; larger delays its keys.
	partFill = 2 * time.Second
	// maxMistakes is how many lines one message describes. More makes it unreadable.
	maxMistakes = 10
)

// partLimits bounds the parts of an import.
type partLimits struct {
	keys          int
	fill, timeout time.Duration
}

// importBody is the body of an import of one key.
type importBody struct {
	SHA256 string `json:"sha256"`
	keyBody
}

func (b importBody) newKey(account string, catalogue Catalogue) (keystore.NewKey, error) {
	if b.SHA256 == "" {
		return keystore.NewKey{}, httpapi.BadRequest("sha256", "is required")
	}
	digest, err := credential.ParseDigest(strings.ToLower(b.SHA256))
	if err != nil { // the message does not repeat the value, which may be a plaintext
		return keystore.NewKey{}, httpapi.BadRequest("sha256", "must be 64 hexadecimal digits")
	}
	if err := catalogue.check("scopes", b.Scopes...); err != nil {
		return keystore.NewKey{}, err
	}
	key, err := b.keyBody.newKey(account)
	key.Digest, key.Imported = digest, true
	return key, err
}

// importLine is one line of an import of many keys.
type importLine struct {
	Account string `json:"account"`
	importBody
}

// importKeys imports the keys of a stream in parts. Each part is one transaction, so that other changes get in
// between. While one part is written, the next is read.
func (s *Server) importKeys(ctx context.Context, c *call) (httpapi.Response, error) {
	parts := make(chan importPart)
	c.Stream.Start(func() { s.readParts(c.Stream, parts) })
	var sum operatorapi.ImportProgress
	var revision int64
	for part := range parts {
		done, err := s.importPart(ctx, c, part)
		if err != nil {
			return httpapi.Response{}, s.incomplete(c, err, sum)
		}
		sum.Lines, sum.Imported, sum.Existing = part.end, sum.Imported+done.Imported, sum.Existing+done.Existing
		revision = max(revision, done.Revision)
		if c.Stream.Send(sum) != nil { // the client has disconnected or does not read
			return httpapi.Response{}, s.incomplete(c, httpapi.BadRequest("response", "could not be written"), sum)
		}
	}
	c.Stream.AllowAny()
	change, err := s.awaitChange(ctx, c, revision)
	if err != nil {
		return httpapi.Response{}, s.incomplete(c, err, sum)
	}
	return httpapi.OK(struct {
		operatorapi.ImportProgress
		Change operatorapi.Change `json:"change"`
	}{sum, change})
}

// incomplete adds to an error in the middle of a stream what was imported before it.
func (s *Server) incomplete(c *call, err error, sum operatorapi.ImportProgress) error {
	rejected := s.reject(operatorsSide, c.Request, err)
	before := "nothing is imported"
	if sum.Lines > 0 {
		before = fmt.Sprintf("the lines up to %d are imported (%d new, %d existing), none after them", sum.Lines, sum.Imported, sum.Existing)
	}
	return &httpapi.Error{Status: rejected.Status, Message: rejected.Message + "; " + before, Header: rejected.Header}
}

// importPart imports one part, or returns what is wrong with it.
func (s *Server) importPart(ctx context.Context, c *call, part importPart) (keystore.Imported, error) {
	switch {
	case part.wrong.status != 0:
		return keystore.Imported{}, part.wrong.err()
	case c.Stream.Draining():
		return keystore.Imported{}, httpapi.Errorf(http.StatusServiceUnavailable, "The key API is stopping").RetryAfter(1)
	case part.err != nil:
		return keystore.Imported{}, httpapi.BadRequest("body", "could not be read to its end")
	case len(part.lines) == 0: // blank lines
		return keystore.Imported{}, nil
	}
	keys := make([]keystore.NewKey, len(part.lines))
	for i, line := range part.lines {
		keys[i] = line.key
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	done, err := s.store.ImportKeys(ctx, c.Caller.actor, keys)
	if rejected, ok := errors.AsType[keystore.ImportErrors](err); ok {
		slices.SortFunc(rejected, func(a, b *keystore.ImportError) int {
			return cmp.Compare(part.lines[a.Index].number, part.lines[b.Index].number)
		})
		for _, one := range rejected {
			part.wrong.add(part.lines[one.Index].number, one.Err)
		}
		err = part.wrong.err()
	}
	return done, err
}

// importPart is the lines of one transaction.
type importPart struct {
	lines []numberedKey
	end   int // number of the last line that was read, which may be blank
	wrong wrongLines
	err   error // why the rest of the body cannot be read
}

type numberedKey struct {
	key    keystore.NewKey
	number int // of its line
}

// readParts reads the body to its end, or to the first part that cannot be imported.
func (s *Server) readParts(in *httpapi.Stream, parts chan<- importPart) {
	defer close(parts)
	for more := true; more; {
		before := in.Lines
		var part importPart
		part, more = s.readPart(in)
		if part.end == before && part.err == nil {
			return
		}
		select {
		case parts <- part:
		case <-in.Stopped():
			return
		}
	}
}

// readPart reads the lines of one part, and reports whether there may be more.
func (s *Server) readPart(in *httpapi.Stream) (part importPart, more bool) {
	in.Allow(s.parts.timeout)
	catalogue := s.settings.Load().Catalogue
	for began := time.Now(); len(part.lines) < s.parts.keys && time.Since(began) < s.parts.fill; {
		line, err := in.Next()
		part.end = in.Lines
		switch {
		case errors.Is(err, io.EOF):
			part.sort()
			return part, false
		case errors.Is(err, httpapi.ErrLineTooLong):
			part.wrong.add(in.Lines, httpapi.Errorf(http.StatusRequestEntityTooLarge, "must have at most %d bytes", httpapi.MaxLine))
			return part, false
		case err != nil:
			part.err = err
			return part, false
		}
		key, err := readKey(line, catalogue)
		if err != nil {
			part.wrong.add(in.Lines, err)
		}
		part.lines = append(part.lines, numberedKey{key, in.Lines})
	}
	part.sort()
	return part, part.wrong.status == 0
}

// sort orders the lines by digest and makes the ids ascend with them. That is cheaper for the store's indexes.
func (p *importPart) sort() {
	ids := make([]string, len(p.lines))
	for i, line := range p.lines {
		ids[i] = line.key.ID
	}
	slices.Sort(ids)
	slices.SortFunc(p.lines, func(a, b numberedKey) int { return bytes.Compare(a.key.Digest[:], b.key.Digest[:]) })
	for i := range p.lines {
		p.lines[i].key.ID = ids[i]
	}
}

func readKey(raw []byte, catalogue Catalogue) (keystore.NewKey, error) {
	var line importLine
	if err := httpapi.DecodeBody(raw, &line); err != nil {
		return keystore.NewKey{}, err
	}
	switch {
	case line.Account == "":
		return keystore.NewKey{}, httpapi.BadRequest("account", "is required")
	case !validID(line.Account):
		return keystore.NewKey{}, httpapi.BadRequest("account", idRule)
	}
	return line.newKey(line.Account, catalogue)
}

// wrongLines describes the lines of a part that cannot be imported.
type wrongLines struct {
	status int // of the first; 0 if there is none
	texts  []string
	more   int // lines beyond maxMistakes
}

func (m *wrongLines) add(line int, err error) {
	status, text := http.StatusBadRequest, err.Error()
	if rejected, ok := errors.AsType[*httpapi.Error](err); ok {
		status = rejected.Status
	} else if _, ok := errors.AsType[*keystore.Conflict](err); ok {
		status = http.StatusConflict
	} else if errors.Is(err, keystore.ErrNotFound) {
		status, text = http.StatusNotFound, "No such account"
	}
	m.status = cmp.Or(m.status, status)
	if len(m.texts) == maxMistakes {
		m.more++
		return
	}
	m.texts = append(m.texts, fmt.Sprintf("line %d: %s", line, strings.TrimPrefix(text, "body ")))
}

func (m *wrongLines) err() error {
	text := strings.Join(m.texts, "; ")
	if m.more > 0 {
		text += fmt.Sprintf("; and %d more", m.more)
	}
	return httpapi.Errorf(m.status, "%s", text)
}
