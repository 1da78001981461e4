package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// How often an import says how far it is, on a terminal and elsewhere.
const (
	newsOnTerminal = 200 * time.Millisecond
	newsInLog      = 3 * time.Second
)

// importFile sends a file of keys and tells how it goes.
func (s *session) importFile(ctx context.Context) int {
	file, name := os.Stdin, "standard input"
	if s.opts.file != "-" {
		var err error
		if file, err = os.Open(s.opts.file); err != nil {
			s.con.say("the file of keys cannot be read: %s", visible(err.Error())) // it names the file
			return exitFailed
		}
		defer func() { _ = file.Close() }()
		name = s.opts.file
	}
	began := time.Now()
	news := importNews{progress: progress{con: s.con}, began: began, last: began}
	var wait time.Duration
	if s.opts.wait {
		wait = min(s.opts.waits, firstWait)
	}
	answer, sum, err := s.client.ImportKeys(ctx, newKeyLines(file, name), wait, news.tell)
	if err != nil {
		news.end(s.reason(err))
		s.unfinished(err, sum)
		return exitFailed
	}
	done := fmt.Sprintf("imported %d, %d already there", sum.Imported, sum.Existing)
	if s.opts.json {
		news.end(done)
		return s.finishJSON(ctx, answer, began)
	}
	news.clear()
	if s.print(done+"\n") != exitDone {
		return exitFailed
	}
	if s.opts.wait {
		_, code := s.await(ctx, answer, began)
		return code
	}
	s.con.say("%s", outcome(*answer.Change))
	return exitDone
}

// unfinished tells what was done before the error. An envelope's message says it by itself.
func (s *session) unfinished(err error, sum operatorapi.ImportProgress) {
	var failure *operatorapi.Error
	if !errors.As(err, &failure) || failure.Code == "" && failure.OutcomeUnknown {
		s.con.say("of what was sent the key API has told of %d lines: %d imported, %d already there; it may have imported more",
			sum.Lines, sum.Imported, sum.Existing)
	}
	s.con.say("the same file can be sent again: keys that are there already are passed over")
}

// importNews shows how far an import is, now and then.
type importNews struct {
	progress
	began, last time.Time
}

func (n *importNews) tell(sum operatorapi.ImportProgress) {
	pause := newsInLog
	if n.con.terminal {
		pause = newsOnTerminal
	}
	now := time.Now()
	if now.Sub(n.last) < pause {
		return
	}
	n.last = now
	n.show(fmt.Sprintf("%d lines, %.0f a second", sum.Lines, float64(sum.Lines)/now.Sub(n.began).Seconds()))
}

// clear takes away what is shown on a terminal.
func (n *importNews) clear() {
	if n.con.terminal && n.last != n.began {
		_, _ = fmt.Fprint(n.con.err, "\r\x1b[K")
	}
}

// plaintextError is a line that must not be sent.
type plaintextError struct {
	line int
	name string
}

// Error implements error. The key is not repeated.
func (e *plaintextError) Error() string {
	return fmt.Sprintf("line %d of %s holds the plaintext of a key or session, which is not sent to anybody: give its SHA-256, and take it out of the file",
		e.line, e.name)
}

// keyLines passes whole lines on, and ends before the first that holds a plaintext.
type keyLines struct {
	in   *bufio.Reader
	name string
	read int
	rest []byte // of a line that did not fit
	err  error
}

// longestLine is more than the API takes, so that it is the one to refuse.
const longestLine = 64 << 10

func newKeyLines(in io.Reader, name string) *keyLines {
	return &keyLines{in: bufio.NewReaderSize(in, longestLine), name: name}
}

// Read implements io.Reader. It waits for one line, and takes those with it that are there.
func (k *keyLines) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(k.rest) > 0 {
			copied := copy(p[n:], k.rest)
			n, k.rest = n+copied, k.rest[copied:]
			continue
		}
		if k.err != nil || n > 0 && !k.lineIsThere() {
			break
		}
		k.next()
	}
	if n == 0 {
		return 0, k.err
	}
	return n, nil
}

func (k *keyLines) lineIsThere() bool {
	there, _ := k.in.Peek(k.in.Buffered())
	return bytes.IndexByte(there, '\n') >= 0
}

func (k *keyLines) next() {
	line, err := k.in.ReadSlice('\n')
	k.read++
	switch {
	case err == nil || errors.Is(err, io.EOF):
	case errors.Is(err, bufio.ErrBufferFull):
		err = fmt.Errorf("line %d of %s is longer than %d KiB: is it a file of lines?", k.read, k.name, longestLine>>10)
	default:
		err = fmt.Errorf("%s cannot be read: %w", k.name, err)
	}
	line = bytes.TrimPrefix(line, []byte("\ufeff")) // a byte order mark
	if credential.ContainsPlaintext(string(line)) {
		err = &plaintextError{k.read, k.name}
	}
	k.err = err
	if err == nil || errors.Is(err, io.EOF) {
		k.rest = line // good until the next line is read
	}
}
