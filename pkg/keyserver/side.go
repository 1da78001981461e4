package keyserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// identity is who asks.
type identity struct {
	actor   string // for the audit
	account string // the owner's; "" on the other sides
}

// operates reports whether an operator asks.
func (i *identity) operates() bool { return strings.HasPrefix(i.actor, "operator:") }

// call is one request that has passed authentication and bounds.
type call struct {
	identity
	request *http.Request
	body    []byte
	wait    time.Duration // the query's wait_ms
	page    keystore.Page // the query's limit and cursor
	query   url.Values
	stream  *stream // where the route has one, in the place of body
	release func()  // ends the count of a write in flight; nil where none is counted
}

// written says that the change of the request has been made: from now on it only waits.
func (c *call) written() {
	if c.release != nil {
		c.release()
	}
}

// gone is closed when the client has gone.
func (c *call) gone() <-chan struct{} { return c.request.Context().Done() }

func (c *call) path(name string) string { return c.request.PathValue(name) }

// operation answers one call. The context is bounded for the store; whoever waits
// longer takes its bound away, and looks for the client's going himself.
type operation func(ctx context.Context, c *call) (answer, error)

// route is one row of a side's table.
type route struct {
	method, path string
	do           operation
	query        []string // the query parameters that it takes
	limit        int64    // of the body in bytes; 0: maxBody
	stream       bool     // the body and the answer are lines of any number, which it reads and writes by itself
	public       bool     // nobody has to say who he is
}

var (
	waits = []string{waitParam}
	lists = []string{limitParam, cursorParam}
)

// side is the handler of one side.
type side struct {
	*Server
	name         string
	authenticate func(*http.Request) (identity, error)
	bodyTimeout  time.Duration
	writes       *writeLimits // nil: writes are not limited
	mux          *http.ServeMux
	unknown      *endpoint
}

func newSide(s *Server, name string, authenticate func(*http.Request) (identity, error), routes []route) *side {
	d := &side{Server: s, name: name, authenticate: authenticate, bodyTimeout: bodyTimeout, mux: http.NewServeMux()}
	d.unknown = &endpoint{side: d, path: "other"}
	d.mux.Handle("/", d.unknown)
	endpoints := map[string]*endpoint{}
	for _, r := range append(routes, describe) {
		e := endpoints[r.path]
		if e == nil {
			e = &endpoint{side: d, path: r.path, methods: map[string]route{}}
			endpoints[r.path] = e
			d.mux.Handle(r.path, e)
		}
		e.methods[r.method] = r
		if r.method == http.MethodGet {
			e.methods[http.MethodHead] = r
		}
	}
	return d
}

// ServeHTTP implements http.Handler.
func (d *side) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The mux would answer a path that is not clean with a redirect of its own.
	if p := r.URL.EscapedPath(); p != path.Clean(p) {
		d.unknown.ServeHTTP(w, r)
		return
	}
	d.mux.ServeHTTP(w, r)
}

// endpoint is one path of a side with its methods; without methods, all paths
// that are unknown.
type endpoint struct {
	*side
	path    string
	methods map[string]route
}

// ServeHTTP implements http.Handler.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	if e.methods[r.Method].stream {
		s := newStream(w, r, e.draining)
		defer s.close()
		w = s
	}
	a, err := e.run(w, r)
	var body []byte
	if err == nil {
		body, err = a.encode()
	}
	if err != nil {
		a = e.failure(err, e.name, r)
		body, _ = a.encode() // an envelope can always be encoded
	}
	a.write(w, body)
	e.metrics.observe(e.name, e.label(r.Method), a.status, time.Since(began))
}

// label names the route for metrics, with a bounded number of values.
func (e *endpoint) label(method string) string {
	if _, ok := e.methods[method]; ok {
		return method + " " + e.path
	}
	return e.path
}

func (e *endpoint) run(w http.ResponseWriter, r *http.Request) (answer, error) {
	conn := http.NewResponseController(w)
	// Also for a body that is refused and that net/http then reads to its end. A writer
	// without deadlines is a test's.
	_ = conn.SetReadDeadline(time.Now().Add(e.bodyTimeout))
	c, row, err := e.accept(r)
	if err != nil {
		answerUnread(conn)
		return answer{}, err
	}
	defer c.written()
	if row.stream {
		c.stream = w.(*stream)
		return row.do(r.Context(), c)
	}
	if c.body, err = readBody(w, r, row.limit); err != nil {
		return answer{}, err
	}
	// From here on a waiting request must not be cut off.
	_ = conn.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	return row.do(ctx, c)
}

// accept judges a request by all but its body. The call that it returns may count as a write in
// flight, until it is written.
func (e *endpoint) accept(r *http.Request) (c *call, row route, err error) {
	row, ok := e.methods[r.Method]
	c = &call{request: r}
	if err := e.acceptCertificate(r, e.name); err != nil {
		return nil, row, err
	}
	if !row.public {
		if c.identity, err = e.authenticate(r); err != nil {
			return nil, row, err
		}
	}
	switch {
	case len(e.methods) == 0:
		return nil, row, &problem{status: http.StatusNotFound, message: "No such path"}
	case !ok:
		return nil, row, e.notAllowed()
	}
	if e.writes != nil && r.Method != http.MethodGet && r.Method != http.MethodHead {
		if c.release, err = e.writes.begin(c.account, e.settings.Load().OwnerLimits); err != nil {
			return nil, row, err
		}
	}
	err = c.readQuery(row.query)
	if err == nil && row.stream && r.ContentLength != 0 && media(r.Header) != linesMedia {
		err = notMedia(linesMedia)
	}
	if err != nil {
		c.written()
	}
	return c, row, err
}

// answerUnread lets the answer of a refused request go out soon. Over HTTP/1, net/http reads the
// rest of the body before it sends an answer, so that the connection can be used again; a body
// that does not come must not hold it up. (With EnableFullDuplex it would not wait, but its next
// read of the connection then races with that of the body's end.)
func answerUnread(conn *http.ResponseController) {
	_ = conn.SetReadDeadline(time.Now().Add(lingerTimeout))
}

func (e *endpoint) notAllowed() error {
	var allow []string
	for method := range e.methods {
		allow = append(allow, method)
	}
	slices.Sort(allow)
	return &problem{
		status:  http.StatusMethodNotAllowed,
		message: "Allowed here: " + strings.Join(allow, ", "),
		header:  map[string]string{"Allow": strings.Join(allow, ", ")},
	}
}

const (
	maxBody = 1 << 20
	// bodyTimeout is how long a body may take to arrive. Smaller refuses slow links; larger
	// lets a body that never comes hold its connection for longer.
	bodyTimeout = 10 * time.Second
	// ownersBodyTimeout is the same for owners. Their bodies come through Envoy and are small.
	ownersBodyTimeout = 5 * time.Second
)

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if limit == 0 {
		limit = maxBody
	}
	tooLarge := &problem{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("The body may have at most %d bytes", limit)}
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge
	case err != nil:
		return nil, badRequest("body", "could not be read to its end")
	case len(body) > 0 && media(r.Header) != jsonMedia:
		return nil, notMedia(jsonMedia)
	}
	return body, nil
}

const jsonMedia = "application/json"

// media is the body's type without parameters, "" if it is not well formed.
func media(h http.Header) string {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return media
}

func notMedia(want string) error {
	return &problem{status: http.StatusUnsupportedMediaType, message: "The body's content-type must be " + want}
}
