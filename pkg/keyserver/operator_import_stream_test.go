package keyserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// client is an HTTP client that writes and reads at the same time.
type client struct {
	t      testing.TB
	body   *io.PipeWriter
	answer chan reply // the whole answer
	lines  chan importMessage
	stop   context.CancelFunc
}

// partKeys is how many keys a part has in these tests.
const partKeys = 50

func (f *fixture) smallParts() *fixture {
	f.parts = partLimits{keys: partKeys, fill: time.Minute, timeout: time.Minute}
	return f
}

func (f *fixture) serve() *httptest.Server {
	server := httptest.NewServer(f.Operators())
	f.t.Cleanup(server.Close)
	return server
}

func begin(t testing.TB, url string) *client {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	read, write := io.Pipe()
	c := &client{t: t, body: write, answer: make(chan reply, 1), lines: make(chan importMessage, 1000), stop: stop}
	r, err := http.NewRequestWithContext(ctx, "POST", url+importPath, read)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+aliceToken)
	r.Header.Set("Content-Type", httpapi.LinesMedia)
	go func() {
		defer close(c.lines)
		defer close(c.answer)
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return
		}
		defer func() { _ = response.Body.Close() }()
		var whole strings.Builder
		for dec := json.NewDecoder(io.TeeReader(response.Body, &whole)); ; {
			var line importMessage
			if dec.Decode(&line) != nil {
				break
			}
			c.lines <- line
		}
		c.answer <- reply{t, response.StatusCode, response.Header, whole.String()}
	}()
	t.Cleanup(func() {
		stop()
		_ = write.Close()
		for range c.lines {
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return c
}

func (c *client) send(text string) error {
	_, err := io.WriteString(c.body, text)
	return err
}

func (c *client) next() importMessage {
	c.t.Helper()
	select {
	case line, ok := <-c.lines:
		if !ok {
			c.t.Fatal("the answer has ended")
		}
		return line
	case <-time.After(20 * time.Second):
		c.t.Fatal("timed out waiting for a line")
	}
	return importMessage{}
}

// The answer to a part arrives while the client still sends.
func TestImportAnswersEachPart(t *testing.T) {
	t.Parallel()
	f := setUp(t).smallParts()
	f.parts.fill = partFill
	f.account("a")
	c := begin(t, f.serve().URL)
	for part := range 2 {
		if err := c.send(manyLines(part*partKeys, (part+1)*partKeys)); err != nil {
			t.Fatal(err)
		}
		if got := c.next(); got.Lines != (part+1)*partKeys || got.Imported != got.Lines {
			t.Fatalf("%+v", got)
		}
	}
	// A slow client: a part is imported after a while although it is not full.
	if err := c.send(importing(-1) + "\n"); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := -2; ; n-- {
		select {
		case got := <-c.lines:
			if got.Lines <= 2*partKeys || got.Imported != got.Lines {
				t.Fatalf("%+v", got)
			}
			_ = c.body.Close()
			for got.Change == nil {
				got = c.next()
			}
			return
		case <-tick.C:
			if err := c.send(importing(n) + "\n"); err != nil {
				t.Fatal(err)
			}
		case <-deadline:
			t.Fatal("timed out waiting for a part that is not full")
		}
	}
}

// A client disconnects in the middle of a line. The part is not imported. Sending the same stream again imports the
// missing keys.
func TestImportAfterABrokenStream(t *testing.T) {
	f := setUp(t).smallParts()
	f.account("a")
	server := f.serve()
	c := begin(t, server.URL)
	if err := c.send(manyLines(0, partKeys)); err != nil {
		t.Fatal(err)
	}
	c.next()
	half := importing(partKeys + 1)
	if err := c.send(importing(partKeys) + "\n" + half[:len(half)/2]); err != nil {
		t.Fatal(err)
	}
	c.stop()
	server.Close() // waits for the handler
	head, err := f.store.Head(t.Context())
	if err != nil || head.Revision != 1+partKeys {
		t.Fatalf("revision %d, %v", head.Revision, err)
	}
	lines := f.imports(manyLines(0, partKeys+2)).lines()
	if last := lines[len(lines)-1]; last.Imported != 2 || last.Existing != partKeys || last.Change.Revision != head.Revision+2 {
		t.Errorf("%+v", lines)
	}
}

// A client that continues to send after a rejection gets the answer, and then its connection is closed.
func TestImportRejectsMidStream(t *testing.T) {
	t.Parallel()
	f := setUp(t).smallParts()
	f.account("a")
	c := begin(t, f.serve().URL)
	sent := make(chan error, 1)
	go func() {
		err := c.send("{}\n" + manyLines(0, partKeys))
		for err == nil {
			err = c.send(importing(0) + "\n")
		}
		sent <- err
	}()
	select {
	case got := <-c.answer:
		got.rejected(400, "line 1: account is required; nothing is imported")
	case <-time.After(20 * time.Second):
		t.Fatal("no answer")
	}
	if err := <-sent; err == nil {
		t.Error("the connection was not closed")
	}
}

// A shutdown ends a stream with an error.
func TestImportEndsWhenDraining(t *testing.T) {
	for name, begun := range map[string]bool{"at the beginning": false, "in the middle": true} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t).smallParts()
			f.account("a")
			c := begin(t, f.serve().URL)
			if begun {
				if err := c.send(manyLines(0, partKeys)); err != nil {
					t.Fatal(err)
				}
				c.next()
			}
			if err := c.send(importing(-1) + "\n"); err != nil {
				t.Fatal(err)
			}
			close(f.drain)
			got := c.next()
			want := "The key API is stopping; nothing is imported"
			if begun {
				want = "The key API is stopping; the lines up to 50 are imported (50 new, 0 existing), none after them"
			}
			if got.StatusCode != 503 || got.Message != want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// failingImports fails all imports from the n-th on.
type failingImports struct {
	keystore.Store
	after atomic.Int32
}

func (s *failingImports) ImportKeys(ctx context.Context, actor string, keys []keystore.NewKey) (keystore.Imported, error) {
	if s.after.Add(-1) < 0 {
		return keystore.Imported{}, errStore
	}
	return s.Store.ImportKeys(ctx, actor, keys)
}

func TestImportWhenTheStoreFails(t *testing.T) {
	store := &failingImports{}
	f := setUpOn(t, func(s keystore.Store) keystore.Store { store.Store = s; return store }).smallParts()
	f.account("a")
	f.imports(importing(0)).rejected(503, unavailable+unknownOutcome+"; nothing is imported")
	store.after.Store(1)
	lines := f.imports(manyLines(0, partKeys+1)).lines()
	if len(lines) != 2 || lines[1].StatusCode != 503 ||
		lines[1].Message != unavailable+unknownOutcome+"; the lines up to 50 are imported (50 new, 0 existing), none after them" {
		t.Errorf("%+v", lines)
	}
}

// Other changes can be made between two parts.
func TestImportAllowsOtherChanges(t *testing.T) {
	f := setUp(t).smallParts()
	f.account("a")
	c := begin(t, f.serve().URL)
	for part := range 3 {
		if err := c.send(manyLines(part*partKeys, (part+1)*partKeys)); err != nil {
			t.Fatal(err)
		}
		c.next()
		f.account(fmt.Sprint("b", part))
	}
	_ = c.body.Close()
	if last := c.next(); last.Change == nil || last.Imported != 3*partKeys {
		t.Errorf("%+v", last)
	}
}

// pipeListener is a listener of connections from net.Pipe.
type pipeListener struct{ conn chan net.Conn }

func (l pipeListener) Accept() (net.Conn, error) {
	if conn, ok := <-l.conn; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

// A client that is too slow is rejected, between lines and inside a line.
func TestImportOfASlowClient(t *testing.T) {
	for name, sends := range map[string]string{"nothing": "", "half a line": `14` + "\r\n" + `{"account":"a","sha2`} {
		synctest.Test(t, func(t *testing.T) {
			s := New(Options{Log: zap.NewNop(), Metrics: prometheus.NewRegistry()}, testSettings())
			server := &http.Server{Handler: s.Operators(), ReadHeaderTimeout: time.Second}
			here, there := net.Pipe()
			conns := make(chan net.Conn, 1)
			conns <- there
			served := make(chan error, 1)
			go func() { served <- server.Serve(pipeListener{conns}) }()
			began := time.Now()
			_, err := io.WriteString(here, "POST "+importPath+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+aliceToken+
				"\r\nContent-Type: "+httpapi.LinesMedia+"\r\nTransfer-Encoding: chunked\r\n\r\n"+sends)
			if err != nil {
				t.Fatal(name, err)
			}
			raw, err := io.ReadAll(here)
			if took := time.Since(began); err != nil || took < partTimeout || took > partTimeout+2*httpapi.LingerTimeout ||
				!strings.Contains(string(raw), "400 Bad Request") || !strings.Contains(string(raw), "body could not be read to its end; nothing is imported") {
				t.Errorf("%s: after %v %q, %v", name, took, raw, err)
			}
			_ = here.Close()
			close(conns)
			_ = server.Close()
			if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) { // whichever ends first
				t.Error(err)
			}
		})
	}
}
