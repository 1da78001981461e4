package keyserver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	linesMedia = "application/x-ndjson"
	// maxLine bounds one line in bytes.
	maxLine = 16 << 10
	// lingerTimeout is how long a client that goes on sending is listened to after it was refused:
	// a connection that is closed at once might take the answer with it.
	lingerTimeout = time.Second
)

// errLineTooLong ends a stream: where the next line begins would have to be looked for.
var errLineTooLong = errors.New("a line is too long")

// stream is a request whose body and answer are lines of JSON, both at the same time.
type stream struct {
	http.ResponseWriter
	conn     *http.ResponseController
	draining <-chan struct{}
	in       *bufio.Reader
	read     int  // lines of the body
	begun    bool // the answer has

	stop    chan struct{} // closed when nobody wants more of the body
	reading sync.WaitGroup
}

func newStream(w http.ResponseWriter, r *http.Request, draining <-chan struct{}) *stream {
	s := &stream{
		ResponseWriter: w, conn: http.NewResponseController(w), draining: draining,
		in: bufio.NewReaderSize(r.Body, maxLine+len("\n")), stop: make(chan struct{}),
	}
	// net/http would take what is left of a body that could not be read for another request.
	w.Header().Set("Connection", "close")
	// Of HTTP/1; a writer that cannot do it is a test's, or can do it anyway.
	_ = s.conn.EnableFullDuplex()
	return s
}

// Unwrap lets http.ResponseController find the connection.
func (s *stream) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// start runs read beside the answer. It has to return soon after a line cannot be read, and
// whatever it does not want of the body is thrown away.
func (s *stream) start(read func()) {
	s.reading.Go(func() {
		ended := make(chan struct{})
		s.reading.Go(func() {
			select {
			case <-s.draining:
				_ = s.conn.SetReadDeadline(time.Now())
			case <-ended:
			}
		})
		read()
		close(ended)
		<-s.stop
		_, _ = io.Copy(io.Discard, s.in)
	})
}

// close ends the reading after the answer.
func (s *stream) close() {
	_ = s.conn.Flush()
	close(s.stop)
	_ = s.conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	s.reading.Wait()
}

// drained tells whether the program has begun to stop.
func (s *stream) drained() bool { return closed(s.draining) }

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// allow gives the client so much time from now on to send the lines that follow; less if
// nobody wants them.
func (s *stream) allow(d time.Duration) {
	_ = s.conn.SetReadDeadline(time.Now().Add(d))
	switch { // looked at last, so that neither is missed
	case closed(s.stop):
		_ = s.conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	case s.drained():
		_ = s.conn.SetReadDeadline(time.Now())
	}
}

// over says that the body has been read: the answer may take as long as it likes.
func (s *stream) over() { _ = s.conn.SetReadDeadline(time.Time{}) }

// byteOrderMark begins UTF-8 files of some programs.
var byteOrderMark = []byte("\ufeff")

// line returns the next line that is not blank, good until the next call; at the clean end
// of the body io.EOF.
func (s *stream) line() ([]byte, error) {
	for {
		line, err := s.in.ReadSlice('\n')
		if len(line) > 0 {
			s.read++
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, errLineTooLong
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		// A file that is several files, one after the other, may have a mark within it.
		if line = bytes.TrimSpace(bytes.TrimPrefix(line, byteOrderMark)); len(line) > 0 {
			return line, nil // the end comes again with the next call
		}
		if err != nil {
			return nil, err
		}
	}
}

// tell writes one line of the answer, and begins it if need be.
func (s *stream) tell(line []byte) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if !s.begun {
		s.begun = true
		s.Header().Set("Cache-Control", "no-store")
		s.Header().Set("Content-Type", linesMedia)
		s.WriteHeader(http.StatusOK)
	}
	if _, err := s.Write(append(line, '\n')); err != nil {
		return err
	}
	return s.conn.Flush()
}
