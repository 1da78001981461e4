package sidecarapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const canary = "canary-service-token"

// clientOfHandler makes a client of a server with that handler.
func clientOfHandler(t *testing.T, timeout time.Duration, handle http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return clientOf(t, server.URL, timeout)
}

func clientOf(t *testing.T, address string, timeout time.Duration) *Client {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	c := New(Options{URL: u, Timeout: timeout, Token: func() credential.Secret { return credential.NewSecret(canary) }})
	t.Cleanup(c.Close)
	return c
}

func respond(w http.ResponseWriter, status int, contentType, body string) {
	w.Header()["Content-Type"] = []string{contentType}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func good(w http.ResponseWriter) { respond(w, 200, "application/json", resolveBody(goodFacts)) }

// checkError checks that there is an error and that it holds no secret.
func checkError(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, secret := range []string{canary, digest("a").Hex()} {
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
			t.Errorf("error holds a secret: %v", err)
		}
	}
}

func TestResolve(t *testing.T) {
	var seen *http.Request
	var body []byte
	c := clientOfHandler(t, time.Second, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		body, _ = io.ReadAll(r.Body)
		respond(w, 200, "application/json; charset=utf-8", resolveBody(goodFacts, `"found":false`))
	})
	got, err := c.Resolve(context.Background(), []credential.Digest{digest("a"), digest("b")})
	if err != nil || got.Epoch != "one" || got.Revision != 7 || got.Results[0].Outcome != Found || got.Results[1].Outcome != NotFound {
		t.Fatalf("%+v, %v", got, err)
	}
	if want := fmt.Sprintf(`{"credentials":[%q,%q]}`, digest("a").Hex(), digest("b").Hex()); string(body) != want {
		t.Errorf("sent %s, want %s", body, want)
	}
	if seen.Method != "POST" || seen.URL.Path != "/v1/resolve" || seen.Header.Get("Authorization") != "Bearer "+canary ||
		seen.Header.Get("Content-Type") != "application/json" {
		t.Errorf("sent %s %s %v", seen.Method, seen.URL, seen.Header)
	}
}

// An invalid response is an error, and the request is not repeated.
func TestResolveRejectsInvalidResponse(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"400": func(w http.ResponseWriter, _ *http.Request) { respond(w, 400, "application/json", `{}`) },
		"401": func(w http.ResponseWriter, _ *http.Request) { respond(w, 401, "application/json", `{}`) },
		"404": func(w http.ResponseWriter, _ *http.Request) { respond(w, 404, "application/json", `{}`) },
		"413": func(w http.ResponseWriter, _ *http.Request) { respond(w, 413, "application/json", `{}`) },
		"429": func(w http.ResponseWriter, _ *http.Request) { respond(w, 429, "application/json", `{}`) },
		"500": func(w http.ResponseWriter, _ *http.Request) {
			respond(w, 500, "application/json", resolveBody(goodFacts))
		},
		"201 with results": func(w http.ResponseWriter, _ *http.Request) {
			respond(w, 201, "application/json", resolveBody(goodFacts))
		},
		"204":             func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"no content type": func(w http.ResponseWriter, _ *http.Request) { respond(w, 200, "", resolveBody(goodFacts)) },
		"text":            func(w http.ResponseWriter, _ *http.Request) { respond(w, 200, "text/plain", resolveBody(goodFacts)) },
		"html": func(w http.ResponseWriter, _ *http.Request) {
			respond(w, 200, "text/html", `<html>captive portal</html>`)
		},
		"JSON of another API": func(w http.ResponseWriter, _ *http.Request) { respond(w, 200, "application/json", `{"status":"ok"}`) },
		"too few results":     func(w http.ResponseWriter, _ *http.Request) { respond(w, 200, "application/json", resolveBody()) },
		"gzip": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			respond(w, 200, "application/json", "\x1f\x8b\x08\x00")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			c := clientOfHandler(t, 300*time.Millisecond, func(w http.ResponseWriter, r *http.Request) { requests.Add(1); handle(w, r) })
			_, err := c.Resolve(context.Background(), []credential.Digest{digest("a")})
			checkError(t, err)
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// Following a redirect would send the token to a server that is not configured.
func TestRedirectIsNotFollowed(t *testing.T) {
	var followed atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := clientOfHandler(t, time.Second, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, status) })
		_, err := c.Resolve(context.Background(), []credential.Digest{digest("a")})
		var refused *StatusError
		if !errors.As(err, &refused) || refused.Status != status {
			t.Errorf("%d: %v", status, err)
		}
		_, err = c.Changes(context.Background(), ChangesRequest{})
		checkError(t, err)
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

func TestBodyIsBounded(t *testing.T) {
	var wrote atomic.Int64
	c := clientOfHandler(t, 5*time.Second, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range 100 {
			n, err := w.Write(chunk)
			wrote.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	_, err := c.Resolve(context.Background(), []credential.Digest{digest("a")})
	checkError(t, err)
	if n := wrote.Load(); n > 32<<20 {
		t.Errorf("read %d MiB", n>>20)
	}
	// The largest valid response has 1,000 results at every bound, with each character escaped.
	escaped := func(s string) string {
		var out strings.Builder
		for _, c := range []byte(s) {
			fmt.Fprintf(&out, `\u%04x`, c)
		}
		return `"` + out.String() + `"`
	}
	scopes := make([]string, credential.MaxScopes)
	for i := range scopes {
		scopes[i] = escaped(fmt.Sprintf("%0*d", credential.MaxScopeName, i))
	}
	facts := edit(`["b","a"]`, `[`+strings.Join(scopes, ",")+`]`)
	facts = strings.Replace(facts, `"key_1"`, escaped(strings.Repeat("k", maxID)), 1)
	facts = strings.Replace(facts, `"acc_1"`, escaped(strings.Repeat("a", maxID)), 1)
	var results []string
	var digests []credential.Digest
	for i := range MaxResolve {
		d := digest(fmt.Sprint(i))
		digests = append(digests, d)
		results = append(results, fmt.Sprintf(`{"sha256":%q,%s}`, d.Hex(), facts))
	}
	c = clientOfHandler(t, 10*time.Second, func(w http.ResponseWriter, _ *http.Request) {
		respond(w, 200, "application/json", `{"epoch":"one","revision":7,"credentials":[`+strings.Join(results, ",")+`]}`)
	})
	if got, err := c.Resolve(context.Background(), digests); err != nil || got.Results[999].Record.Scopes.Len() != credential.MaxScopes {
		t.Errorf("%v", err)
	}
}

func TestTransientFailureIsRetriedUntilTimeout(t *testing.T) {
	abort := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { respond(w, code, "application/json", `{}`) }
	}
	truncated := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "1000")
		respond(w, 200, "application/json", `{"epoch":`)
	}
	for name, fail := range map[string]func(http.ResponseWriter){
		"reset": abort, "503": status(503), "502": status(502), "truncated": truncated,
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			c := clientOfHandler(t, 5*time.Second, func(w http.ResponseWriter, _ *http.Request) {
				if requests.Add(1) < 3 {
					fail(w)
					return
				}
				good(w)
			})
			if got, err := c.Resolve(context.Background(), []credential.Digest{digest("a")}); err != nil || got.Results[0].Outcome != Found {
				t.Errorf("%+v, %v", got, err)
			}
			if n := requests.Load(); n != 3 {
				t.Errorf("%d requests", n)
			}
			// A failure that lasts ends with the timeout.
			requests.Store(-1_000_000)
			c.timeout = 200 * time.Millisecond
			began := time.Now()
			_, err := c.Resolve(context.Background(), []credential.Digest{digest("a")})
			checkError(t, err)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("took %s", took)
			}
			if n := requests.Load() + 1_000_000; n < 2 || n > 5 {
				t.Errorf("%d requests in 200 ms", n)
			}
		})
	}
}

func TestTimeoutBoundsSlowServer(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // without it the server does not notice that the client disconnects
			<-r.Context().Done()
		},
		"drips": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(10 * time.Millisecond):
				case <-r.Context().Done():
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := clientOfHandler(t, 150*time.Millisecond, handle)
			began := time.Now()
			_, err := c.Resolve(context.Background(), []credential.Digest{digest("a")})
			checkError(t, err)
			if took := time.Since(began); took < 150*time.Millisecond || took > 2*time.Second {
				t.Errorf("took %s", took)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			began = time.Now()
			_, err = c.Changes(ctx, ChangesRequest{})
			checkError(t, err)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("the poll took %s", took)
			}
		})
	}
}

func TestChanges(t *testing.T) {
	status, reply := 200, `{"epoch":"one","revision":7,"changes":[{"revision":7,"account":"a"}],"lease_ms":15000}`
	var body []byte
	requests := 0
	c := clientOfHandler(t, time.Second, func(w http.ResponseWriter, r *http.Request) {
		requests++
		body, _ = io.ReadAll(r.Body)
		if r.URL.Path != "/v1/changes" {
			t.Errorf("requested %s", r.URL)
		}
		respond(w, status, "application/json", reply)
	})
	poll := func(p ChangesRequest) (Changes, error) { return c.Changes(context.Background(), p) }
	for _, p := range []struct {
		ask  ChangesRequest
		want string
	}{
		{ChangesRequest{Sidecar: "s", Poll: 1, After: -1, MaxStaleMS: 5}, `{"sidecar":"s","poll":1,"after":-1,"max_stale_ms":5}`},
		{ChangesRequest{Sidecar: "s", Poll: 2, Epoch: "one", After: 0, WaitMS: 5000}, `{"sidecar":"s","poll":2,"epoch":"one","after":0,"wait_ms":5000}`},
		{ChangesRequest{Sidecar: "s", Poll: 3, Leave: true}, `{"sidecar":"s","poll":3,"after":0,"leave":true}`},
	} {
		if got, err := poll(p.ask); err != nil || len(got.List) != 1 || got.Lease != 15*time.Second {
			t.Errorf("%+v, %v", got, err)
		}
		if string(body) != p.want {
			t.Errorf("sent %s, want %s", body, p.want)
		}
	}
	status, reply = 404, `{}`
	if _, err := poll(ChangesRequest{}); !errors.Is(err, ErrNotOffered) {
		t.Errorf("404: %v", err)
	}
	var gone *Gone
	status, reply = 410, `{"epoch":"two","revision":3}`
	if _, err := poll(ChangesRequest{}); !errors.As(err, &gone) || *gone != (Gone{"two", 3}) {
		t.Errorf("410: %v", err)
	}
	reply = `{}`
	if _, err := poll(ChangesRequest{}); err == nil || errors.As(err, &gone) {
		t.Errorf("an empty 410: %v", err)
	}
	status, reply = 409, `{"error":"CONFLICT","message":"m","statusCode":409}`
	if _, err := poll(ChangesRequest{}); !errors.Is(err, ErrConflict) {
		t.Errorf("409: %v", err)
	}
	// The largest valid response has MaxChanges changes of the longest IDs, escaped.
	change := `{"revision":7,"account":"` + strings.Repeat(`\u0061`, maxID) + `"}`
	status, reply = 200, `{"epoch":"one","revision":7,"changes":[`+strings.Repeat(change+",", MaxChanges-1)+change+`],"lease_ms":1}`
	if got, err := poll(ChangesRequest{}); err != nil || len(got.List) != MaxChanges {
		t.Errorf("%d changes, %v", len(got.List), err)
	}
	for _, status = range []int{201, 204, 400, 401, 429, 500, 502, 503} {
		requests = 0
		var refused *StatusError
		if _, err := poll(ChangesRequest{}); !errors.As(err, &refused) || refused.Status != status || requests != 1 {
			t.Errorf("%d: %v, %d requests", status, err, requests)
		}
	}
}

// The causes are a token that is not a valid header value, and an address without a listener.
func TestErrorHoldsNoSecret(t *testing.T) {
	u, _ := url.Parse("http://127.0.0.1:1")
	c := New(Options{URL: u, Timeout: 50 * time.Millisecond, Token: func() credential.Secret { return credential.NewSecret(canary + "\n") }})
	defer c.Close()
	_, err := c.Resolve(context.Background(), []credential.Digest{digest("a")})
	checkError(t, err)
	c = clientOf(t, "http://127.0.0.1:1", 50*time.Millisecond)
	_, err = c.Resolve(context.Background(), []credential.Digest{digest("a")})
	checkError(t, err)
	_, err = c.Changes(context.Background(), ChangesRequest{})
	checkError(t, err)
}

func TestResolveOverUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { good(w) }))
	_ = server.Listener.Close()
	server.Listener = ln
	server.Start()
	defer server.Close()
	c := clientOf(t, "unix://"+path, time.Second)
	defer c.Close()
	if _, err := c.Resolve(context.Background(), []credential.Digest{digest("a")}); err != nil {
		t.Error(err)
	}
}
