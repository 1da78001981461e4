package operatorapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// ImportProgress is how far an import has come.
type ImportProgress struct {
	Lines    int `json:"lines"`    // of the stream
	Imported int `json:"imported"` // keys that are new
	Existing int `json:"existing"` // keys that were there before
}

// importLine is one line of the answer: what has been done so far, or an error's envelope.
type importLine struct {
	ImportProgress
	Change     *Change `json:"change"`
	StatusCode int     `json:"statusCode"`
}

// ImportKeys sends the lines, each a JSON object with account, sha256, label and, if wanted,
// scopes and expires_at, and calls tell whenever some of them have been imported. The API takes
// some thousand at once: when there is an error, those that were told of are imported, and the same
// lines can be sent again. With a wait, which is brought inside 0 to MaxWait, the last answer comes
// when the change is effective or the time is up.
//
// The Answer has Change and JSON. The error is that of lines as it came, or an *Error. After a
// return lines may be read for a moment, or if it blocks as long as it does.
func (c *Client) ImportKeys(ctx context.Context, lines io.Reader, wait time.Duration, tell func(ImportProgress)) (Answer, ImportProgress, error) {
	r := post(nil, []string{"change"}, "keys", "import")
	if wait > 0 {
		r = r.Waiting(wait)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := c.request(ctx, r)
	if err != nil {
		return Answer{}, ImportProgress{}, err
	}
	source := newFeed(lines, answerTimeout+r.wait, func() { cancel(errQuiet) })
	defer source.rest()
	request.Body, request.ContentLength = source, -1
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Accept", "application/x-ndjson, application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return Answer{}, ImportProgress{}, source.broken(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, maxBody))
		return Answer{}, ImportProgress{}, refusal(response.StatusCode, body, true)
	}
	return source.follow(ctx, r, response.Body, tell)
}

// follow reads the answer to its end.
func (f *feed) follow(ctx context.Context, r Request, body io.Reader, tell func(ImportProgress)) (Answer, ImportProgress, error) {
	var sum ImportProgress
	in := bufio.NewScanner(body)
	in.Buffer(nil, maxBody)
	for in.Scan() {
		f.heard()
		var line importLine
		if err := decode(in.Bytes(), &line); err != nil {
			return Answer{}, sum, unreadable(r, http.StatusOK, err)
		}
		switch {
		case line.StatusCode != 0:
			return Answer{}, sum, refusal(line.StatusCode, in.Bytes(), true)
		case line.Change != nil:
			answer, err := decodeAnswer(in.Bytes(), r.answers)
			if err != nil {
				return Answer{}, sum, unreadable(r, http.StatusOK, err)
			}
			return answer, line.ImportProgress, nil
		}
		sum = line.ImportProgress
		tell(sum)
	}
	err := in.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return Answer{}, sum, f.broken(ctx, err)
}

var errQuiet = fmt.Errorf("it has taken nothing and said nothing for %v", answerTimeout)

// feed is lines on their way to the API, with a look at whether the API still takes them.
type feed struct {
	lines io.Reader
	quiet time.Duration
	mu    sync.Mutex
	timer *time.Timer // runs while the API has to do something
	asked bool        // lines are being waited for: then it need not
	begun bool        // something has been asked for, and so was sent perhaps
	ended bool
	err   error // of lines
}

func newFeed(lines io.Reader, quiet time.Duration, late func()) *feed {
	return &feed{lines: lines, quiet: quiet, timer: time.AfterFunc(quiet, late)}
}

// Read implements io.Reader.
func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	f.asked, f.begun = true, true
	f.timer.Stop()
	f.mu.Unlock()
	n, err := f.lines.Read(p)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	f.asked = false
	if !f.ended {
		f.timer.Reset(f.quiet)
	}
	return n, err
}

// Close implements io.Closer; lines are the caller's.
func (f *feed) Close() error { return nil }

// heard says that something came from the API.
func (f *feed) heard() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.asked {
		f.timer.Reset(f.quiet)
	}
}

// rest ends the look.
func (f *feed) rest() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.timer.Stop()
}

// broken explains why there is no answer, or no more of it.
func (f *feed) broken(ctx context.Context, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if wrapped, ok := asError[*url.Error](err); ok {
		err = wrapped.Err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if !f.begun {
		return &Error{Message: "the key API cannot be reached", Cause: err}
	}
	return &Error{Message: "the connection to the key API broke before its last answer came", OutcomeUnknown: true, Cause: err}
}
