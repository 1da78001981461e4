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

// How often the progress of an import is shown. Shorter makes a terminal flicker and fills a log;
// longer makes the import look hung.
const (
	terminalInterval = 200 * time.Millisecond
	logInterval      = 3 * time.Second
)

// importFile sends a file of keys and shows the progress.
func (s *session) importFile(ctx context.Context) int {
	file, name := os.Stdin, "standard input"
	if s.opts.file != "-" {
		var err error
		if file, err = os.Open(s.opts.file); err != nil {
			s.con.say("read file of keys: %s", visible(err.Error()))
			return exitFailed
		}
		defer func() { _ = file.Close() }()
		name = s.opts.file
	}
	began := time.Now()
	shown := importProgress{progress: progress{con: s.con}, began: began, last: began}
	var wait time.Duration
	if s.opts.wait {
		wait = min(s.opts.waits, firstWait)
	}
	answer, sum, err := s.client.ImportKeys(ctx, newKeyLines(file, name), wait, shown.update)
	if err != nil {
		shown.end(s.reason(err))
		s.unfinished(err, sum)
		return exitFailed
	}
	done := fmt.Sprintf("imported %d, %d already there", sum.Imported, sum.Existing)
	if s.opts.output == "json" {
		shown.end(done)
		return s.finishJSON(ctx, answer, began)
	}
	shown.clear()
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

// unfinished reports how much was imported before the error. The API's own errors say so themselves.
func (s *session) unfinished(err error, sum operatorapi.ImportProgress) {
	if failure, ok := errors.AsType[*operatorapi.Error](err); !ok || failure.Code == "" && failure.OutcomeUnknown {
		s.con.say("the key API has confirmed %d lines: %d imported, %d already there; it may have imported more",
			sum.Lines, sum.Imported, sum.Existing)
	}
	s.con.say("the file can be imported again: keys that exist already are skipped")
}

// importProgress shows the progress of an import at intervals.
type importProgress struct {
	progress
	began, last time.Time
}

func (n *importProgress) update(sum operatorapi.ImportProgress) {
	interval := logInterval
	if n.con.terminal {
		interval = terminalInterval
	}
	now := time.Now()
	if now.Sub(n.last) < interval {
		return
	}
	n.last = now
	n.show(fmt.Sprintf("%d lines, %.0f a second", sum.Lines, float64(sum.Lines)/now.Sub(n.began).Seconds()))
}

// clear removes the progress from a terminal.
func (n *importProgress) clear() {
	if n.con.terminal && n.last != n.began {
		_, _ = fmt.Fprint(n.con.err, "\r\x1b[K")
	}
}

// keyLines reads a file of keys by whole lines. It ends with an error before the first line that
// holds a plaintext.
type keyLines struct {
	in   *bufio.Reader
	name string
	read int    // lines
	rest []byte // of a line that did not fit into the reader's buffer
	err  error
}

// maxLine is the maximum length of a line in bytes. It is larger than that of the API, which reports
// the line's number and its own limit.
const maxLine = 64 << 10

func newKeyLines(in io.Reader, name string) *keyLines {
	return &keyLines{in: bufio.NewReaderSize(in, maxLine), name: name}
}

// Read implements io.Reader. It waits for one line, and adds all buffered ones.
func (k *keyLines) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(k.rest) > 0 {
			copied := copy(p[n:], k.rest)
			n, k.rest = n+copied, k.rest[copied:]
			continue
		}
		if k.err != nil || n > 0 && !k.hasBufferedLine() {
			break
		}
		k.next()
	}
	if n == 0 {
		return 0, k.err
	}
	return n, nil
}

func (k *keyLines) hasBufferedLine() bool {
	buffered, _ := k.in.Peek(k.in.Buffered())
	return bytes.IndexByte(buffered, '\n') >= 0
}

func (k *keyLines) next() {
	line, err := k.in.ReadSlice('\n')
	k.read++
	switch {
	case err == nil || errors.Is(err, io.EOF):
	case errors.Is(err, bufio.ErrBufferFull):
		err = fmt.Errorf("line %d of %s is too long: must be at most %d KiB", k.read, k.name, maxLine>>10)
	default:
		err = fmt.Errorf("read %s: %w", k.name, err)
	}
	line = bytes.TrimPrefix(line, []byte("\ufeff")) // byte order mark
	if credential.ContainsPlaintext(string(line)) {
		err = fmt.Errorf("line %d of %s holds the plaintext of a key or session, which is not sent: use its SHA-256, and remove the plaintext from the file",
			k.read, k.name)
	}
	k.err = err
	if err == nil || errors.Is(err, io.EOF) {
		k.rest = line // valid until the next ReadSlice
	}
}
