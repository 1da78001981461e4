package httpapi

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
	// LinesMedia is the media type of JSON values, one a line.
	LinesMedia = "application/x-ndjson"
	// MaxLine bounds one line in bytes.
	MaxLine = 16 << 10
	// LingerTimeout is how long the rest of a rejected body is read. Smaller closes the connection before
	// slow clients have read the response; larger keeps the connections of clients that do not stop sending.
	LingerTimeout = time.Second
)

// ErrLineTooLong ends a stream, because the start of the next line is not known.
var ErrLineTooLong = errors.New("line is too long")

// Stream is a request whose body and response are lines of JSON. Both may be in flight at the same time:
// one goroutine reads lines while another writes them.
type Stream struct {
	http.ResponseWriter
	Lines int // lines read so far, blank ones included

	conn     *http.ResponseController
	draining <-chan struct{}
	in       *bufio.Reader
	begun    bool // the response has begun
	stop     chan struct{}
	reading  sync.WaitGroup
}

func newStream(w http.ResponseWriter, r *http.Request, draining <-chan struct{}) *Stream {
	s := &Stream{
		ResponseWriter: w, conn: http.NewResponseController(w), draining: draining,
		in: bufio.NewReaderSize(r.Body, MaxLine+len("\n")), stop: make(chan struct{}),
	}
	// net/http would read the rest of a body that could not be read as the next request.
	w.Header().Set("Connection", "close")
	_ = s.conn.EnableFullDuplex() // needed for HTTP/1 only, and not supported by the writers of tests
	return s
}

// Unwrap implements the interface of http.ResponseController.
func (s *Stream) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Start runs read in its own goroutine. It has to return soon after Next fails or Stopped is closed. The
// rest of the body is discarded.
func (s *Stream) Start(read func()) {
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

// Stopped returns a channel that is closed when the response is complete and no more lines are needed.
func (s *Stream) Stopped() <-chan struct{} { return s.stop }

// close ends the reading after the response.
func (s *Stream) close() {
	_ = s.conn.Flush()
	close(s.stop)
	_ = s.conn.SetReadDeadline(time.Now().Add(LingerTimeout))
	s.reading.Wait()
}

// Draining reports whether the program has begun to stop.
func (s *Stream) Draining() bool { return closed(s.draining) }

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// Allow gives the client the time d, from now on, to send the next lines. After Stopped, or while the program
// drains, it is less.
func (s *Stream) Allow(d time.Duration) {
	_ = s.conn.SetReadDeadline(time.Now().Add(d))
	switch { // checked after the deadline is set, so that neither is missed
	case closed(s.stop):
		_ = s.conn.SetReadDeadline(time.Now().Add(LingerTimeout))
	case s.Draining():
		_ = s.conn.SetReadDeadline(time.Now())
	}
}

// AllowAny removes the time limit of Allow, after the whole body was read.
func (s *Stream) AllowAny() { _ = s.conn.SetReadDeadline(time.Time{}) }

// ByteOrderMark begins the UTF-8 files of some programs. A line may begin with it.
const ByteOrderMark = "\ufeff"

// Next returns the next line that is not blank, valid until the next call. At the end of the body the error is
// io.EOF.
func (s *Stream) Next() ([]byte, error) {
	for {
		line, err := s.in.ReadSlice('\n')
		if len(line) > 0 {
			s.Lines++
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, ErrLineTooLong
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		// Concatenated files have marks inside the stream.
		if line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte(ByteOrderMark))); len(line) > 0 {
			return line, nil // the next call returns io.EOF again
		}
		if err != nil {
			return nil, err
		}
	}
}

// Send writes one line of the response and flushes it.
func (s *Stream) Send(body any) error {
	line, err := Encode(body)
	if err != nil {
		return err
	}
	return s.sendLine(line)
}

func (s *Stream) sendLine(line []byte) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if !s.begun {
		s.begun = true
		s.Header().Set("Cache-Control", "no-store")
		s.Header().Set("Content-Type", LinesMedia)
		s.WriteHeader(http.StatusOK)
	}
	if _, err := s.Write(append(line, '\n')); err != nil {
		return err
	}
	return s.conn.Flush()
}
