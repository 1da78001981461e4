package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// reader is the reader of a log. Its field take decides how much of each line it accepts.
type reader struct {
	mu   sync.Mutex
	got  bytes.Buffer
	take func(line []byte) (int, error) // nil: all of it
}

func (r *reader) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := len(line), error(nil)
	if r.take != nil {
		n, err = r.take(line)
	}
	r.got.Write(line[:n])
	return n, err
}

func (r *reader) set(take func(line []byte) (int, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take = take
}

func (r *reader) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.String()
}

func expectMetric(t *testing.T, rt *Runtime, want string) {
	t.Helper()
	if _, got := request(rt.adminHandler(), http.MethodGet, "/metrics"); !strings.Contains(got, "\n"+want+"\n") {
		t.Errorf("no %q in /metrics", want)
	}
}

// TestDroppedLinesAreReported: after a reader was gone, a line reports how many were dropped.
func TestDroppedLinesAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(reader)
		rt := newRuntime("thing", "info", r)
		r.set(func([]byte) (int, error) { return 0, syscall.EPIPE })
		for range 3 {
			rt.Log.Info("dropped")
			synctest.Wait()
		}
		r.set(nil)
		rt.Log.Info("back")
		synctest.Wait()
		if got := r.text(); strings.Contains(got, `"msg":"dropped"`) || !strings.Contains(got, `"msg":"back"`) ||
			strings.Count(got, `"dropped":3`) != 1 || strings.Count(got, "\n") != 2 {
			t.Errorf("got %s", got)
		}
		expectMetric(t, rt, "thing_log_lines_dropped_total 3")
	})
}

// TestNonBlockingOutput: an output that accepts a part of a line gets the rest later.
func TestNonBlockingOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(reader)
		rt := newRuntime("thing", "info", r)
		refusals := 0
		r.set(func(line []byte) (int, error) {
			if refusals++; refusals < 5 {
				return min(3, len(line)), syscall.EAGAIN
			}
			return len(line), nil
		})
		rt.Log.Info("whole")
		<-time.After(time.Second)
		if got := r.text(); !strings.HasPrefix(got, `{"level":"info","time":`) || strings.Count(got, `"msg":"whole"}`+"\n") != 1 {
			t.Errorf("got %q", got)
		}
	})
}

// TestFlushIsBounded: the exit waits for the reader, but not longer than the limit.
func TestFlushIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(reader)
		rt := newRuntime("thing", "info", r)
		resume := make(chan struct{})
		r.set(func(line []byte) (int, error) { <-resume; return len(line), nil })
		rt.Log.Info("one")
		began := time.Now()
		rt.lines.flush(time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("without a reader the flush took %v", took)
		}
		close(resume)
		rt.lines.flush(time.Second)
		if took := time.Since(began); took != time.Second || !strings.Contains(r.text(), "one") {
			t.Errorf("with a reader the flush took %v, %s", took, r.text())
		}
	})
}

// TestRepeatedLinesAreOmitted: each message has its own limit, and its next line reports how many lines
// were omitted.
func TestRepeatedLinesAreOmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(reader)
		rt := newRuntime("thing", "debug", r)
		failing := rt.Log.With(zap.String("side", "owners"))
		library := rt.libraryLog("http.owners")
		for i := range 100 {
			failing.Error("the store failed", zap.Int("request", i))
			library.Printf("handshake error from %d", i)
			rt.Log.Debug("a detail")
		}
		rt.Log.Warn("the store failed")
		rt.lines.flush(time.Minute)
		got := r.text()
		for part, want := range map[string]int{
			`"error","time"`: repeatLimit, `handshake`: repeatLimit, `a detail`: 100, `"level":"warn","time":`: repeatLimit + 1, "left_out": 0,
		} {
			if found := strings.Count(got, part); found != want {
				t.Errorf("got %d lines with %s, want %d", found, part, want)
			}
		}
		<-time.After(repeatWindow)
		failing.Error("the store failed")
		failing.Error("the store failed")
		rt.lines.flush(time.Minute)
		if got := r.text(); strings.Count(got, `"left_out":90}`) != 1 {
			t.Errorf("got %s", got[len(got)-500:])
		}
		expectMetric(t, rt, "thing_log_lines_repeated_total 180")
	})
}

func TestCountedMessagesAreBounded(t *testing.T) {
	rt := newRuntime("thing", "info", io.Discard)
	for i := range 3 * maxMessages {
		rt.Log.Info(strings.Repeat("x", i))
	}
	if got := len(rt.Log.Core().(limited).repeats.messages); got > maxMessages {
		t.Errorf("%d messages are counted", got)
	}
}

// TestFailedHandshakesAreLimited: failed TLS handshakes log some lines, not one each.
func TestFailedHandshakesAreLimited(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := new(reader)
	rt := newRuntime("thing", "info", r)
	ln, err := rt.Listen("listen.sidecars", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	rt.ServeHTTP("sidecars", ln, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return nil, errors.New("none")
	}}, http.NotFoundHandler())
	for range 200 {
		conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "not TLS at all\n")
		_, _ = io.Copy(io.Discard, conn) // until the server has closed it
		_ = conn.Close()
	}
	if err := rt.stop(time.Second); err != nil {
		t.Error(err)
	}
	rt.lines.flush(time.Minute)
	if got := strings.Count(r.text(), "handshake error"); got == 0 || got > 5*repeatLimit {
		t.Errorf("200 failed handshakes logged %d lines:\n%.3000s", got, r.text())
	}
}

// TestNoLogUnderLock: the logger is never called under a lock of this package.
func TestNoLogUnderLock(t *testing.T) {
	rt := newRuntime("thing", "info", io.Discard)
	rt.Log = zap.New(zapcore.RegisterHooks(rt.Log.Core(), func(zapcore.Entry) error {
		if !rt.mu.TryLock() {
			t.Error("logged under the lock")
			return nil
		}
		rt.mu.Unlock()
		return nil
	}))
	if _, err := rt.Listen("listen.admin", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := rt.stop(time.Second); err != nil {
		t.Error(err)
	}
}
