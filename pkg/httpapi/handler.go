package httpapi

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Call is one request that was authenticated and is within its bounds. C describes its caller.
type Call[C any] struct {
	Caller  C
	Request *http.Request
	Query   Query
	Body    []byte
	Stream  *Stream // in place of Body for a route that streams

	release func()
}

// Release ends what API.Admit has begun. It may be called again.
func (c *Call[C]) Release() {
	if c.release != nil {
		c.release()
	}
}

// Operation answers one call. It returns the whole response or an error, so that no partial response is sent.
type Operation[C any] func(context.Context, *Call[C]) (Response, error)

// Route is one operation of an API.
type Route[C any] struct {
	Method, Path string
	Do           Operation[C]
	Query        []string // the query parameters that it accepts
	MaxBody      int64    // in bytes; 0 means MaxBody
	Stream       bool     // the body and the response are lines in Call.Stream
	Public       bool     // needs no authentication
}

const (
	// MaxBody bounds a body in bytes.
	MaxBody = 1 << 20
	// BodyTimeout is how long a body may take to arrive. Smaller rejects slow links; larger lets a body that
	// never arrives keep its connection for longer.
	BodyTimeout = 10 * time.Second

	jsonMedia = "application/json"
)

// API is one side of a program's API. It answers what is not in its routes with an error.
type API[C any] struct {
	Side   string // its name in metrics
	Codes  []int  // status codes of its operations, whose series exist from the start
	Routes []Route[C]
	// Accept checks the connection of every request before everything else.
	Accept func(*http.Request) error
	// Authenticate identifies the caller. It runs before the body is read, and for unknown paths too.
	Authenticate func(*http.Request) (C, error)
	// Admit limits writes, which are requests with any method but GET and HEAD. It begins before the body is
	// read. nil means no limit.
	Admit func(C) (release func(), err error)
	// Reject maps an error to the response. An *Error is returned as it is.
	Reject func(*http.Request, error) *Error
	// BodyTimeout replaces the constant of that name. 0 means no other.
	BodyTimeout time.Duration
	// Timeout bounds the context of every operation that does not stream.
	Timeout time.Duration
	// Draining is closed when the program begins to stop.
	Draining <-chan struct{}
	Metrics  *Metrics
	// Tracer makes the spans of requests in sampled traces. nil means none; then no header of a trace is read.
	Tracer trace.Tracer
}

// Handler returns the handler of the API.
func (a API[C]) Handler() http.Handler {
	if a.BodyTimeout == 0 {
		a.BodyTimeout = BodyTimeout
	}
	mux := http.NewServeMux()
	unknown := &endpoint[C]{api: &a, path: "other"}
	mux.Handle("/", unknown)
	endpoints := map[string]*endpoint[C]{}
	for _, r := range a.Routes {
		e := endpoints[r.Path]
		if e == nil {
			e = &endpoint[C]{api: &a, path: r.Path, methods: map[string]Route[C]{}}
			endpoints[r.Path] = e
			mux.Handle(r.Path, e)
		}
		e.methods[r.Method] = r
		if r.Method == http.MethodGet {
			e.methods[http.MethodHead] = r
		}
	}
	a.preset(unknown, endpoints)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The mux redirects a path that is not clean.
		if p := r.URL.EscapedPath(); p != path.Clean(p) {
			unknown.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// endpoint is one path with its methods. Without methods it is all unknown paths.
type endpoint[C any] struct {
	api     *API[C]
	path    string
	methods map[string]Route[C]
}

// ServeHTTP implements http.Handler.
func (e *endpoint[C]) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	r, span := e.startSpan(r)
	defer span.End()
	if e.methods[r.Method].Stream {
		s := newStream(w, r, e.api.Draining)
		defer s.close()
		w = s
	}
	response, err := e.run(w, r)
	var body []byte
	if err == nil {
		body, err = Encode(response.Body)
	}
	if err != nil {
		response = e.api.Reject(r, err).response()
		body, _ = Encode(response.Body) // an envelope can always be encoded
	}
	response.write(w, body)
	noteStatus(span, response.Status)
	e.api.Metrics.observe(e.api.Side, e.label(r.Method), response.Status, time.Since(began))
}

func (e *endpoint[C]) run(w http.ResponseWriter, r *http.Request) (Response, error) {
	conn := http.NewResponseController(w)
	// Also for a body that is rejected and that net/http then reads to its end. The writers of tests have no
	// deadlines.
	_ = conn.SetReadDeadline(time.Now().Add(e.api.BodyTimeout))
	c, route, err := e.accept(r)
	if err != nil {
		// Over HTTP/1, net/http reads the rest of the body before it sends a response, so that the connection can
		// be used again. A body that does not arrive must not delay the response. (With EnableFullDuplex it would
		// not wait, but its next read of the connection then races with that of the body's end.)
		_ = conn.SetReadDeadline(time.Now().Add(LingerTimeout))
		return Response{}, err
	}
	defer c.Release()
	if route.Stream {
		c.Stream = w.(*Stream)
		return route.Do(r.Context(), c)
	}
	if c.Body, err = readBody(w, r, route.MaxBody); err != nil {
		return Response{}, err
	}
	_ = conn.SetReadDeadline(time.Time{}) // it would cancel a request that waits
	ctx, cancel := context.WithTimeout(r.Context(), e.api.Timeout)
	defer cancel()
	return route.Do(ctx, c)
}

// accept checks everything but the body of a request. The caller releases the call.
func (e *endpoint[C]) accept(r *http.Request) (c *Call[C], route Route[C], err error) {
	route, ok := e.methods[r.Method]
	c = &Call[C]{Request: r}
	if err := e.api.Accept(r); err != nil {
		return nil, route, err
	}
	if !route.Public {
		if c.Caller, err = e.api.Authenticate(r); err != nil {
			return nil, route, err
		}
	}
	switch {
	case len(e.methods) == 0:
		return nil, route, Errorf(http.StatusNotFound, "No such path")
	case !ok:
		return nil, route, e.notAllowed()
	}
	if e.api.Admit != nil && r.Method != http.MethodGet && r.Method != http.MethodHead {
		if c.release, err = e.api.Admit(c.Caller); err != nil {
			return nil, route, err
		}
	}
	c.Query, err = readQuery(r, route.Query)
	if err == nil && route.Stream && r.ContentLength != 0 {
		err = checkMedia(r, LinesMedia)
	}
	if err != nil {
		c.Release()
	}
	return c, route, err
}

func (e *endpoint[C]) notAllowed() error {
	var methods []string
	for method := range e.methods {
		methods = append(methods, method)
	}
	slices.Sort(methods)
	allow := strings.Join(methods, ", ")
	return &Error{http.StatusMethodNotAllowed, "Allowed here: " + allow, map[string]string{"Allow": allow}}
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if limit == 0 {
		limit = MaxBody
	}
	tooLarge := Errorf(http.StatusRequestEntityTooLarge, "The body may have at most %d bytes", limit)
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if err != nil {
		return nil, BadRequest("body", "could not be read to its end")
	}
	if len(body) > 0 {
		return body, checkMedia(r, jsonMedia)
	}
	return nil, nil
}

// checkMedia compares the media type of a body without its parameters.
func checkMedia(r *http.Request, want string) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != want {
		return Errorf(http.StatusUnsupportedMediaType, "The body's content-type must be %s", want)
	}
	return nil
}

// Parameters that Query reads.
const (
	WaitParam   = "wait_ms"
	LimitParam  = "limit"
	CursorParam = "cursor"
)

const (
	maxWaitMS    = 60000
	maxLimit     = 1000
	defaultLimit = 100
	maxCursor    = 1024 // bytes, far more than a store's cursor has
	shownName    = 64   // bytes of an unknown parameter's name that the message repeats
)

// Query is the query of a request.
type Query struct {
	Wait   time.Duration // how long the response may wait for its change to become effective
	Limit  int           // length of a page
	Cursor string        // end of the previous page, "" for the first page
	values url.Values
}

// readQuery rejects a parameter that is not allowed or is given twice. A misspelt filter must not return
// more than was requested.
func readQuery(r *http.Request, allowed []string) (Query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Query{}, BadRequest("query", "is not well formed")
	}
	for name, given := range values {
		if !slices.Contains(allowed, name) {
			if len(name) > shownName {
				name = strings.ToValidUTF8(name[:shownName], "") + "…"
			}
			return Query{}, BadRequest(name, "is not a query parameter of this request")
		}
		if len(given) > 1 {
			return Query{}, BadRequest(name, "is given more than once")
		}
	}
	q := Query{Cursor: values.Get(CursorParam), values: values}
	wait, err := q.number(WaitParam, 0, 0, maxWaitMS)
	if err != nil {
		return Query{}, err
	}
	limit, err := q.number(LimitParam, defaultLimit, 1, maxLimit)
	if err != nil {
		return Query{}, err
	}
	if len(q.Cursor) > maxCursor {
		return Query{}, ErrCursor
	}
	q.Wait, q.Limit = time.Duration(wait)*time.Millisecond, int(limit)
	return q, nil
}

// ErrCursor rejects a cursor that is not from the same list.
var ErrCursor = BadRequest(CursorParam, "is not one of this list")

// number reads an optional parameter of decimal digits.
func (q Query) number(name string, absent, least, most int64) (int64, error) {
	if !q.values.Has(name) {
		return absent, nil
	}
	n, ok := ParseDigits(q.values.Get(name))
	if !ok || n < least || n > most {
		return 0, BadRequest(name, "must be a whole number from %d to %d", least, most)
	}
	return n, nil
}

// ParseDigits parses a number without sign. One that is too large for an int64 is the largest int64.
func ParseDigits(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, _ := strconv.ParseInt(s, 10, 64) // on overflow it is the largest
	return n, true
}

// Text returns a parameter and whether it is there.
func (q Query) Text(name string) (value string, ok bool) {
	return q.values.Get(name), q.values.Has(name)
}

// Flag reads an optional parameter that is true or false.
func (q Query) Flag(name string) (bool, error) {
	value, ok := q.Text(name)
	if ok && value != "true" && value != "false" {
		return false, BadRequest(name, "must be true or false")
	}
	return value == "true", nil
}

// Time reads an optional time, the zero time if it is absent.
func (q Query) Time(name string) (time.Time, error) {
	value, ok := q.Text(name)
	if !ok {
		return time.Time{}, nil
	}
	at, err := ParseTime(value)
	if err != nil {
		return time.Time{}, BadRequest(name, "must be a time as in RFC 3339")
	}
	return at.UTC(), nil
}
