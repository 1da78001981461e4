package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const testBodyLimit = 100

// fixture is an API with one route of each kind. It notes the hooks that have run.
type fixture struct {
	API[string]
	metrics *prometheus.Registry

	mu    sync.Mutex // requests of several connections run at the same time
	hooks []string
}

var errTest = errors.New("test failure")

func setUp() *fixture {
	reg := prometheus.NewRegistry()
	f := &fixture{metrics: reg}
	note := func(hook string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.hooks = append(f.hooks, hook)
	}
	f.API = API[string]{
		Side: "test",
		Routes: []Route[string]{
			{Method: "GET", Path: "/things", Do: f.list, Query: []string{LimitParam, CursorParam, WaitParam, "flag", "at"}},
			{Method: "POST", Path: "/things", Do: f.create, MaxBody: testBodyLimit},
			{Method: "DELETE", Path: "/things/{id}", Do: f.fail},
			{Method: "POST", Path: "/lines", Do: f.stream, Stream: true},
			{Method: "GET", Path: "/public", Do: f.text, Public: true},
		},
		Accept: func(r *http.Request) error {
			note("accept")
			if r.Header.Get("X-Certificate") == "bad" {
				return Errorf(http.StatusForbidden, "bad certificate")
			}
			return nil
		},
		Authenticate: func(r *http.Request) (string, error) {
			note("authenticate")
			if name := r.Header.Get("X-Name"); name != "" {
				return name, nil
			}
			return "", Errorf(http.StatusUnauthorized, "no name")
		},
		Admit: func(name string) (func(), error) {
			note("admit")
			if name == "busy" {
				return nil, Errorf(http.StatusTooManyRequests, "busy").RetryAfter(7)
			}
			return func() { note("release") }, nil
		},
		Reject: func(_ *http.Request, err error) *Error {
			if rejected, ok := errors.AsType[*Error](err); ok {
				return rejected
			}
			return Errorf(http.StatusServiceUnavailable, "%v", err)
		},
		Timeout: time.Minute,
		Metrics: NewMetrics(reg, "test"),
	}
	return f
}

func (f *fixture) list(ctx context.Context, c *Call[string]) (Response, error) {
	flag, err := c.Query.Flag("flag")
	if err != nil {
		return Response{}, err
	}
	at, err := c.Query.Time("at")
	if err != nil {
		return Response{}, err
	}
	_, bounded := ctx.Deadline()
	return OK(fmt.Sprintf("%s wait %s, limit %d, cursor %q, flag %t, at %d, bounded %t",
		c.Caller, c.Query.Wait, c.Query.Limit, c.Query.Cursor, flag, at.Unix(), bounded))
}

func (f *fixture) create(_ context.Context, c *Call[string]) (Response, error) {
	var body struct {
		Name string `json:"name"`
	}
	if err := DecodeBody(c.Body, &body); err != nil {
		return Response{}, err
	}
	return Response{Status: http.StatusCreated, Body: map[string]string{"name": body.Name, "by": c.Caller}}, nil
}

func (f *fixture) fail(context.Context, *Call[string]) (Response, error) { return Response{}, errTest }

// stream answers each line with itself, and then with the number of lines.
func (f *fixture) stream(_ context.Context, c *Call[string]) (Response, error) {
	lines := make(chan string)
	end := errors.New("not read")
	c.Stream.Start(func() {
		defer close(lines)
		for {
			c.Stream.Allow(time.Minute)
			line, err := c.Stream.Next()
			if err != nil {
				end = err
				return
			}
			select {
			case lines <- string(line):
			case <-c.Stream.Stopped():
				return
			}
		}
	})
	for line := range lines {
		if line == "stop" {
			return Response{}, Errorf(http.StatusConflict, "stopped")
		}
		if err := c.Stream.Send(line); err != nil {
			return Response{}, err
		}
	}
	c.Stream.AllowAny()
	switch {
	case c.Stream.Draining():
		return Response{}, Errorf(http.StatusServiceUnavailable, "draining")
	case !errors.Is(end, io.EOF):
		return Response{}, BadRequest("body", "%v", end)
	}
	return OK(c.Stream.Lines)
}

func (f *fixture) text(context.Context, *Call[string]) (Response, error) {
	return Response{Status: http.StatusOK, Body: Text("a: b"), Header: map[string]string{"Content-Type": "application/yaml"}}, nil
}

func (f *fixture) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	return w
}

func envelope(name, message string, status int) string {
	return fmt.Sprintf(`{"error":%q,"message":%q,"statusCode":%d}`, name, message, status)
}

func TestHandler(t *testing.T) {
	long := strings.Repeat("x", testBodyLimit)
	for name, c := range map[string]struct {
		method, target string
		header         string // name=value pairs
		body           string
		status         int
		want           string
		hooks          string
	}{
		"list": {
			"GET", "/things", "X-Name=ann", "", 200, `"ann wait 0s, limit 100, cursor \"\", flag false, at -62135596800, bounded true"`, "accept authenticate",
		},
		"head": {"HEAD", "/things", "X-Name=ann", "", 200, `"ann wait 0s, limit 100, cursor \"\", flag false, at -62135596800, bounded true"`, "accept authenticate"},
		"create": {
			"POST", "/things", "X-Name=ann Content-Type=application/json;charset=utf-8", `{"name":"x"}`, 201, `{"by":"ann","name":"x"}`,
			"accept authenticate admit release",
		},
		"empty body":      {"POST", "/things", "X-Name=ann", "", 201, `{"by":"ann","name":""}`, "accept authenticate admit release"},
		"failure":         {"DELETE", "/things/a", "X-Name=ann", "", 503, envelope("SERVICE_UNAVAILABLE", "test failure", 503), "accept authenticate admit release"},
		"public":          {"GET", "/public", "", "", 200, "a: b", "accept"},
		"bad certificate": {"GET", "/public", "X-Certificate=bad", "", 403, envelope("FORBIDDEN", "bad certificate", 403), "accept"},
		"unauthenticated": {"POST", "/things", "", long, 401, envelope("UNAUTHORIZED", "no name", 401), "accept authenticate"},
		"unknown path unauthenticated": {
			"GET", "/nothing", "", "", 401, envelope("UNAUTHORIZED", "no name", 401), "accept authenticate",
		},
		"unknown path":   {"GET", "/nothing", "X-Name=ann", "", 404, envelope("NOT_FOUND", "No such path", 404), "accept authenticate"},
		"unclean path":   {"GET", "/x/../things", "X-Name=ann", "", 404, envelope("NOT_FOUND", "No such path", 404), "accept authenticate"},
		"trailing slash": {"GET", "/things/", "X-Name=ann", "", 404, envelope("NOT_FOUND", "No such path", 404), "accept authenticate"},
		"unknown method": {
			"PATCH", "/things", "X-Name=ann", "", 405, envelope("METHOD_NOT_ALLOWED", "Allowed here: GET, HEAD, POST", 405), "accept authenticate",
		},
		"not admitted": {"POST", "/things", "X-Name=busy", long, 429, envelope("TOO_MANY_REQUESTS", "busy", 429), "accept authenticate admit"},
		"reads are not limited": {
			"GET", "/things?limit=1", "X-Name=busy", "", 200, `"busy wait 0s, limit 1, cursor \"\", flag false, at -62135596800, bounded true"`,
			"accept authenticate",
		},
		"query of a write": {
			"POST", "/things?limit=1", "X-Name=ann", "", 400, envelope("BAD_REQUEST", "limit is not a query parameter of this request", 400),
			"accept authenticate admit release",
		},
		"wrong media type": {
			"POST", "/things", "X-Name=ann Content-Type=text/plain", "{}", 415,
			envelope("UNSUPPORTED_MEDIA_TYPE", "The body's content-type must be application/json", 415), "accept authenticate admit release",
		},
		"no media type": {
			"POST", "/things", "X-Name=ann", "{}", 415,
			envelope("UNSUPPORTED_MEDIA_TYPE", "The body's content-type must be application/json", 415), "accept authenticate admit release",
		},
		"stream of another media type": {
			"POST", "/lines", "X-Name=ann Content-Type=application/json", "{}", 415,
			envelope("UNSUPPORTED_MEDIA_TYPE", "The body's content-type must be application/x-ndjson", 415), "accept authenticate admit release",
		},
		"large body": {
			"POST", "/things", "X-Name=ann Content-Type=application/json", long + "x", 413,
			envelope("PAYLOAD_TOO_LARGE", "The body may have at most 100 bytes", 413), "accept authenticate admit release",
		},
		"large body of unknown length": {
			"POST", "/things", "X-Name=ann Content-Type=application/json Content-Length=-1", long + "x", 413,
			envelope("PAYLOAD_TOO_LARGE", "The body may have at most 100 bytes", 413), "accept authenticate admit release",
		},
		"unknown field": {
			"POST", "/things", "X-Name=ann Content-Type=application/json", `{"%d":1}`, 400,
			envelope("BAD_REQUEST", "%d is not a known field", 400), "accept authenticate admit release",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp()
			r := httptest.NewRequest(c.method, c.target, strings.NewReader(c.body))
			for pair := range strings.FieldsSeq(c.header) {
				name, value, _ := strings.Cut(pair, "=")
				r.Header.Set(name, value)
				if name == "Content-Length" {
					r.ContentLength = -1
				}
			}
			got := f.do(r)
			if got.Code != c.status || got.Body.String() != c.want {
				t.Errorf("got %d %s\nwant %d %s", got.Code, got.Body, c.status, c.want)
			}
			if hooks := strings.Join(f.hooks, " "); hooks != c.hooks {
				t.Errorf("hooks %s, want %s", hooks, c.hooks)
			}
			if cache := got.Header().Get("Cache-Control"); cache != "no-store" {
				t.Errorf("cache-control %q", cache)
			}
			media := "application/json"
			if c.target == "/public" && c.status == 200 {
				media = "application/yaml"
			}
			if got := got.Header().Get("Content-Type"); got != media {
				t.Errorf("content-type %q, want %q", got, media)
			}
			allow, retry := got.Header().Get("Allow"), got.Header().Get("Retry-After")
			if (allow == "GET, HEAD, POST") != (c.status == 405) || (retry == "7") != (c.status == 429) {
				t.Errorf("allow %q, retry-after %q", allow, retry)
			}
		})
	}
}

func TestQuery(t *testing.T) {
	const more = ", bounded true"
	for query, want := range map[string]string{
		"limit=1000&cursor=c&wait_ms=60000":        `ann wait 1m0s, limit 1000, cursor "c", flag false, at -62135596800` + more,
		"flag=true&at=2026-01-02t03:04:05%2B01:00": `ann wait 0s, limit 100, cursor "", flag true, at 1767319445` + more,
		"flag=false&cursor=&limit=007":             `ann wait 0s, limit 7, cursor "", flag false, at -62135596800` + more,
		"limit=0":                                  "limit must be a whole number from 1 to 1000",
		"limit=1001":                               "limit must be a whole number from 1 to 1000",
		"limit=":                                   "limit must be a whole number from 1 to 1000",
		"limit=%2B1":                               "limit must be a whole number from 1 to 1000",
		"limit=99999999999999999999":               "limit must be a whole number from 1 to 1000",
		"wait_ms=60001":                            "wait_ms must be a whole number from 0 to 60000",
		"wait_ms=-1":                               "wait_ms must be a whole number from 0 to 60000",
		"wait_ms=1s":                               "wait_ms must be a whole number from 0 to 60000",
		"wait_ms=1&wait_ms=1":                      "wait_ms is given more than once",
		"cursor=" + strings.Repeat("x", 1025):      "cursor is not one of this list",
		"flag=":                                    "flag must be true or false",
		"flag=1":                                   "flag must be true or false",
		"at=":                                      "at must be a time as in RFC 3339",
		"at=2026-02-30T00:00:00Z":                  "at must be a time as in RFC 3339",
		"limits=1":                                 "limits is not a query parameter of this request",
		strings.Repeat("é", 33) + "=1":             strings.Repeat("é", 32) + "… is not a query parameter of this request",
		"%zz":                                      "query is not well formed",
	} {
		r := httptest.NewRequest("GET", "/things", nil)
		r.URL.RawQuery = query
		r.Header.Set("X-Name", "ann")
		got := setUp().do(r)
		status, body := 200, fmt.Sprintf("%q", want)
		if !strings.HasSuffix(want, more) {
			status, body = 400, envelope("BAD_REQUEST", want, 400)
		}
		if got.Code != status || got.Body.String() != body {
			t.Errorf("%.60s: got %d %s\nwant %d %s", query, got.Code, got.Body, status, body)
		}
	}
}

func TestEncode(t *testing.T) {
	for want, body := range map[string]any{
		`{"a":1,"b":2,"c":3}`: map[string]int{"c": 3, "a": 1, "b": 2},
		`"<&>"`:               "<&>",
		"\"\ufffd\"":          "\xff",
		"plain":               Text("plain"),
		"":                    nil,
	} {
		if got, err := Encode(body); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if _, err := Encode(func() {}); err == nil {
		t.Error("a function was encoded")
	}
}

// The labels have a bounded number of values: unknown paths share one, and unknown methods of a path another.
func TestMetrics(t *testing.T) {
	f := setUp()
	for _, request := range []string{"GET /things", "HEAD /things", "PATCH /things", "BREW /things", "DELETE /things/a", "DELETE /things/b", "GET /a", "GET /b"} {
		method, target, _ := strings.Cut(request, " ")
		r := httptest.NewRequest(method, target, nil)
		r.Header.Set("X-Name", "ann")
		f.do(r)
	}
	scraped := httptest.NewRecorder()
	promhttp.HandlerFor(f.metrics, promhttp.HandlerOpts{}).ServeHTTP(scraped, httptest.NewRequest("GET", "/metrics", nil))
	var got []string
	for line := range strings.Lines(scraped.Body.String()) {
		if strings.HasPrefix(line, "test_requests_total{") && !strings.HasSuffix(line, " 0\n") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`test_requests_total{code="200",route="GET /things",side="test"} 2`,
		`test_requests_total{code="404",route="other",side="test"} 2`,
		`test_requests_total{code="405",route="/things",side="test"} 2`,
		`test_requests_total{code="503",route="DELETE /things/{id}",side="test"} 2`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A rejection that needs no body does not wait for one.
func TestRejectionsDoNotWaitForTheBody(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"unauthenticated": {"POST /things HTTP/1.1\r\n", 401},
		"unknown path":    {"POST /nothing HTTP/1.1\r\nX-Name: ann\r\n", 404},
		"unknown method":  {"PATCH /things HTTP/1.1\r\nX-Name: ann\r\n", 405},
		"not admitted":    {"POST /things HTTP/1.1\r\nX-Name: busy\r\n", 429},
		"invalid query":   {"POST /things?x=1 HTTP/1.1\r\nX-Name: ann\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(setUp().Handler())
			defer server.Close()
			addr := server.Listener.Addr()
			conn, err := net.Dial(addr.Network(), addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, c.request+"Host: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(BodyTimeout / 2))
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != c.status {
				t.Errorf("status %d, want %d", response.StatusCode, c.status)
			}
		})
	}
}

func TestReleaseBeforeTheResponse(t *testing.T) {
	f := setUp()
	f.Routes[1].Do = func(_ context.Context, c *Call[string]) (Response, error) {
		c.Release()
		f.hooks = append(f.hooks, "answer")
		return OK(nil)
	}
	r := httptest.NewRequest("POST", "/things", nil)
	r.Header.Set("X-Name", "ann")
	f.do(r)
	if want := []string{"accept", "authenticate", "admit", "release", "answer", "release"}; !slices.Equal(f.hooks, want) {
		t.Errorf("hooks %v, want %v", f.hooks, want)
	}
}
