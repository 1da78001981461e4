package httpapi

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func lines(f *fixture, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/lines", body)
	r.Header.Set("X-Name", "ann")
	r.Header.Set("Content-Type", LinesMedia)
	return f.do(r)
}

func TestStreamLines(t *testing.T) {
	full := strings.Repeat("x", MaxLine)
	for body, want := range map[string]string{
		"":                           "0\n",
		"\n \r\n\t\n":                "3\n",
		"a\nb\n":                     "\"a\"\n\"b\"\n2\n",
		"a\r\nb":                     "\"a\"\n\"b\"\n2\n",
		" a \n\n b":                  "\"a\"\n\"b\"\n3\n",
		"\ufeffa\n\ufeffb\n\ufeff\n": "\"a\"\n\"b\"\n3\n",
		"\ufeff\ufeffa":              "\"\ufeffa\"\n1\n",
		full + "\na":                 "\"" + full + "\"\n\"a\"\n2\n",
		"a\n" + full + "x\n":         "\"a\"\n" + envelope("BAD_REQUEST", "body line is too long", 400) + "\n",
		"a\nstop\nb\n":               "\"a\"\n" + envelope("CONFLICT", "stopped", 409) + "\n",
	} {
		got := lines(setUp(), strings.NewReader(body))
		if got.Code != 200 || got.Body.String() != want || got.Header().Get("Content-Type") != LinesMedia || got.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%.40q: got %d %.80q %v\nwant %.80q", body, got.Code, got.Body, got.Header(), want)
		}
	}
}

// An error before the first line of the response has its status.
func TestStreamRejectedBeforeTheFirstLine(t *testing.T) {
	for body, status := range map[string]int{"stop\na\n": 409, strings.Repeat("x", MaxLine+1): 400} {
		got := lines(setUp(), strings.NewReader(body))
		if got.Code != status || got.Header().Get("Content-Type") != "application/json" || strings.Contains(got.Body.String(), "\n") {
			t.Errorf("%.40q: got %d %q %v", body, got.Code, got.Body, got.Header())
		}
	}
}

// streamConn is the body of a stream and the deadlines of its connection.
type streamConn struct {
	*httptest.ResponseRecorder
	text     *strings.Reader
	deadline chan time.Time
}

func (c *streamConn) SetReadDeadline(at time.Time) error { c.deadline <- at; return nil }
func (c *streamConn) SetWriteDeadline(time.Time) error   { return nil }
func (c *streamConn) Close() error                       { return nil }
func (c *streamConn) FlushError() error                  { return nil }
func (c *streamConn) EnableFullDuplex() error            { return nil }
func (c *streamConn) Read(p []byte) (n int, err error) {
	if c.text.Len() > 0 {
		return c.text.Read(p)
	}
	timer := time.NewTimer(time.Hour)
	for {
		select {
		case at := <-c.deadline:
			if at.IsZero() {
				continue
			}
			timer.Reset(max(time.Until(at), time.Nanosecond))
		case <-timer.C:
			return 0, io.ErrNoProgress
		}
	}
}

// A client sends a line and then nothing more: the stream ends after its time limit, or immediately when the program
// drains.
func TestStreamDeadlines(t *testing.T) {
	for name, c := range map[string]struct {
		drainAfter time.Duration // 0: never
		took       time.Duration
		want       string
	}{
		"slow client": {0, time.Minute, envelope("BAD_REQUEST", "body multiple Read calls return no data or error", 400)},
		"drain":       {3 * time.Second, 3 * time.Second, envelope("SERVICE_UNAVAILABLE", "draining", 503)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := setUp()
				draining := make(chan struct{})
				f.Draining = draining
				if c.drainAfter > 0 {
					time.AfterFunc(c.drainAfter, func() { close(draining) })
				}
				conn := &streamConn{httptest.NewRecorder(), strings.NewReader("a\n"), make(chan time.Time, 100)}
				r := httptest.NewRequest("POST", "/lines", conn)
				r.Header.Set("X-Name", "ann")
				r.Header.Set("Content-Type", LinesMedia)
				r.Body = conn
				began := time.Now()
				f.Handler().ServeHTTP(conn, r)
				took := time.Since(began)
				if took < c.took || took > c.took+2*LingerTimeout {
					t.Errorf("after %s, want %s", took, c.took)
				}
				if got, want := conn.Body.String(), "\"a\"\n"+c.want+"\n"; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}
