package operatorapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// ImportProgress counts the lines of an import that the API has processed.
type ImportProgress struct {
	Lines    int `json:"lines"`
	Imported int `json:"imported"` // new keys
	Existing int `json:"existing"` // keys that existed before
}

// importLine is one line of the response: the progress, the result or an error envelope.
type importLine struct {
	ImportProgress
	Change     *Change `json:"change"`
	StatusCode int     `json:"statusCode"`
}

// ImportKeys sends the lines, each a JSON object with account, sha256, label and optionally scopes
// and expires_at, and calls report each time some have been imported. The API imports some
// thousand at a time: after an error, the reported ones are imported, and the same lines can
// be sent again. With a wait, which is limited to 0 to MaxWait, the API responds when the change is
// effective or the time is up.
//
// The Answer has Change and JSON. The error is an *Error, or that of lines. A Read of lines that
// is in progress may outlast the return.
func (c *Client) ImportKeys(ctx context.Context, lines io.Reader, wait time.Duration, report func(ImportProgress)) (Answer, ImportProgress, error) {
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
	body := newImportBody(lines, answerTimeout+r.wait, func() { cancel(errNoProgress) })
	defer body.timer.Stop()
	request.Body, request.ContentLength = body, -1
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Accept", "application/x-ndjson, application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return Answer{}, ImportProgress{}, body.explain(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := httpapi.ReadBody(response.Body, maxBody)
		return Answer{}, ImportProgress{}, statusError(response.StatusCode, text, true)
	}
	return body.readResponse(ctx, r, response.Body, report)
}

func (b *importBody) readResponse(ctx context.Context, r Request, body io.Reader, report func(ImportProgress)) (Answer, ImportProgress, error) {
	var sum ImportProgress
	in := bufio.NewScanner(body)
	in.Buffer(nil, maxBody)
	for in.Scan() {
		b.markProgress()
		var line importLine
		if err := httpapi.Decode(in.Bytes(), &line); err != nil {
			return Answer{}, sum, invalidResponse(r, http.StatusOK, err)
		}
		switch {
		case line.StatusCode != 0:
			return Answer{}, sum, statusError(line.StatusCode, in.Bytes(), true)
		case line.Change != nil:
			answer, err := decodeAnswer(in.Bytes(), r.answers)
			if err != nil {
				return Answer{}, sum, invalidResponse(r, http.StatusOK, err)
			}
			return answer, line.ImportProgress, nil
		}
		sum = line.ImportProgress
		report(sum)
	}
	err := in.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return Answer{}, sum, b.explain(ctx, err)
}

var errNoProgress = fmt.Errorf("the key API made no progress for %v", answerTimeout)

// importBody is the request body of an import. It calls onTimeout if the API neither reads nor
// responds for a time. That time does not run during a Read of lines.
type importBody struct {
	lines   io.Reader
	timeout time.Duration
	mu      sync.Mutex
	timer   *time.Timer
	reading bool  // a Read of lines is in progress
	started bool  // there has been a Read, so lines may have been sent
	err     error // of lines
}

func newImportBody(lines io.Reader, timeout time.Duration, onTimeout func()) *importBody {
	return &importBody{lines: lines, timeout: timeout, timer: time.AfterFunc(timeout, onTimeout)}
}

// Read implements io.Reader.
func (b *importBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.reading, b.started = true, true
	b.timer.Stop()
	b.mu.Unlock()
	n, err := b.lines.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	b.reading = false
	b.timer.Reset(b.timeout) // after the end of the request onTimeout has no effect
	return n, err
}

// Close implements io.Closer. The caller of ImportKeys closes lines.
func (b *importBody) Close() error { return nil }

// markProgress notes that the API has sent a line.
func (b *importBody) markProgress() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.reading {
		b.timer.Reset(b.timeout)
	}
}

// explain returns the reason for err, which ended the request or the response.
func (b *importBody) explain(ctx context.Context, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	err = httpapi.WithoutURL(err)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if !b.started {
		return &Error{Message: "cannot reach the key API", Cause: err}
	}
	return &Error{Message: "lost the connection to the key API before the last response", OutcomeUnknown: true, Cause: err}
}
