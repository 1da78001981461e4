package keyserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// checked compares every request and answer with the OpenAPI document.
func (f *fixture) checked(side http.Handler) http.Handler {
	// Comparing is too slow for a fuzzer. go test compares the seeds.
	if fuzzes := flag.Lookup("test.fuzz"); fuzzes != nil && fuzzes.Value.String() != "" {
		return side
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := &bytes.Buffer{}
		r.Body = teed{io.TeeReader(r.Body, sent), r.Body}
		got := &copied{ResponseWriter: w}
		side.ServeHTTP(got, r)
		if err := compare(r, sent.Bytes(), got); err != nil {
			f.t.Errorf("%s %s, answered %d %.300s, deviates from openapi.yaml: %v", r.Method, r.URL, got.status, got.body.String(), err)
		}
	})
}

// teed reads from one reader and closes another.
type teed struct {
	io.Reader
	io.Closer
}

// copied keeps a copy of what is written.
type copied struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (c *copied) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *copied) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *copied) Write(p []byte) (int, error) {
	c.body.Write(p)
	return c.ResponseWriter.Write(p)
}

// openAPI is the document in which no object may have fields that are not in its schema.
var openAPI = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData([]byte(description))
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	no := false
	err = doc.WalkSchemas(func(_ string, s *openapi3.SchemaRef) error {
		if len(s.Value.Properties) > 0 {
			s.Value.AdditionalProperties.Has = &no
		}
		return nil
	})
	return doc, err
})

var strict = &openapi3filter.Options{
	AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc, // the tests check authentication themselves
	IncludeResponseStatus: true,
	SkipSettingDefaults:   true,
}

// The document describes a stream of lines as a list.
func init() {
	openapi3filter.RegisterBodyDecoder(httpapi.LinesMedia, func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		list := []any{}
		raw, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		for dec := json.NewDecoder(bytes.NewReader(bytes.ReplaceAll(raw, []byte(httpapi.ByteOrderMark), nil))); ; {
			var item any
			switch err := dec.Decode(&item); {
			case errors.Is(err, io.EOF):
				return list, nil
			case err != nil:
				return nil, err
			}
			list = append(list, item)
		}
	})
}

// compare compares an answer, and the request if it was not rejected, with the document. A request that is not in
// the document must be rejected with an envelope.
func compare(r *http.Request, sent []byte, got *copied) error {
	doc, err := openAPI()
	if err != nil {
		return err
	}
	item := doc.Paths.Value(r.Pattern)
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if item == nil || item.GetOperation(method) == nil {
		return checkEnvelope(doc, got)
	}
	input := &openapi3filter.RequestValidationInput{
		Request:    r.Clone(context.Background()),
		PathParams: pathValues(r),
		Route:      &routers.Route{Spec: doc, Path: r.Pattern, PathItem: item, Method: method, Operation: item.GetOperation(method)},
		Options:    strict,
	}
	input.Request.Body = io.NopCloser(bytes.NewReader(sent))
	input.Request.ContentLength = int64(len(sent))
	input.Request.Method = method                                         // the document does not list HEAD
	rejected := bytes.Contains(got.body.Bytes(), []byte("\n{\"error\":")) // in the middle of a stream
	if got.status < 300 && !rejected {
		if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
			return fmt.Errorf("the request: %w", err)
		}
	}
	answer := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: got.status, Header: got.Header(), Options: strict}
	if err := openapi3filter.ValidateResponse(context.Background(), answer.SetBodyBytes(got.body.Bytes())); err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	if wanted := item.GetOperation(method).Responses.Status(got.status).Value.Content; len(wanted) == 0 && got.body.Len() > 0 {
		return errors.New("the answer: a body where there is none")
	}
	return nil
}

func pathValues(r *http.Request) map[string]string {
	values := map[string]string{}
	for _, name := range []string{"id", "scope", "revision", "name"} {
		if v := r.PathValue(name); v != "" {
			values[name] = v
		}
	}
	return values
}

// checkEnvelope checks that a request that is not in the document was rejected.
func checkEnvelope(doc *openapi3.T, got *copied) error {
	if got.status < 400 {
		return errors.New("it is not in the document and was not rejected")
	}
	if got.status == http.StatusMethodNotAllowed && got.Header().Get("Allow") == "" {
		return errors.New("405 without allow")
	}
	var body any
	if err := json.Unmarshal(got.body.Bytes(), &body); err != nil {
		return err
	}
	return doc.Components.Responses["Error"].Value.Content.Get("application/json").Schema.Value.VisitJSON(body, openapi3.EnableJSONSchema2020())
}

// Each row is an answer of the server with one deviation.
func TestCheckFindsDeviations(t *testing.T) {
	const good = `{"account":{"id":"a","name":"Ann","state":"active","created_at":"2026-01-02T03:04:05Z","terminated_at":null}}`
	send := func(method, target, pattern, body string) *http.Request {
		r := request(method, target, body)
		r.Pattern = pattern
		r.SetPathValue("id", "a")
		return r
	}
	get := send("GET", "/v1/accounts/a", "/v1/accounts/{id}", "")
	for name, c := range map[string]struct {
		r      *http.Request
		status int
		body   string
		broken string // part of the error; "" if nothing is broken
	}{
		"unchanged":                      {get, 200, good, ""},
		"a field is missing":             {get, 200, strings.Replace(good, `"name":"Ann",`, "", 1), "name"},
		"a field too many":               {get, 200, strings.Replace(good, `"id"`, `"digest":"x","id"`, 1), "digest"},
		"a field of null":                {get, 200, strings.Replace(good, `"Ann"`, "null", 1), "name"},
		"an unknown state":               {get, 200, strings.Replace(good, "active", "asleep", 1), "state"},
		"a time with an offset":          {get, 200, strings.Replace(good, `05Z`, "05+01:00", 1), "created_at"},
		"not a time":                     {get, 200, strings.Replace(good, `2026-01-02T03:04:05Z`, "yesterdayZ", 1), "created_at"},
		"a bidirectional control":        {get, 200, strings.Replace(good, `Ann`, `\u202e`, 1), "name"},
		"an unknown status":              {get, 202, good, "status"},
		"the envelope of another status": {get, 404, `{"error":"CONFLICT","message":"x","statusCode":409}`, "error"},
		"no envelope":                    {get, 404, `Not found`, "Content-Type"},
		"503 without a header": {
			get, 503, `{"error":"SERVICE_UNAVAILABLE","message":"x","statusCode":503}`, "Retry-After",
		},
		"an unknown path":      {send("GET", "/v1/x", "/", ""), 200, `{}`, "not in the document"},
		"an unknown method":    {send("PATCH", "/v1/accounts/a", "/v1/accounts/{id}", ""), 200, good, "not in the document"},
		"a wrong request":      {send("POST", "/v1/accounts", "/v1/accounts", `{"nam":"x"}`), 201, good, "nam"},
		"a request too long":   {send("POST", "/v1/accounts", "/v1/accounts", `{"name":"`+strings.Repeat("x", 201)+`"}`), 201, good, "name"},
		"a request with null":  {send("POST", "/v1/accounts", "/v1/accounts", `{"id":null,"name":"x"}`), 201, good, ""},
		"a parameter too high": {send("GET", "/v1/accounts?limit=1001", "/v1/accounts", ""), 200, `{"accounts":[],"next":null}`, "limit"},
		"204 with a body": {
			send("POST", "/v1/usage", "/v1/usage", `{"sidecar":"s","used":[]}`), 204, `{}`, "body",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &copied{ResponseWriter: recorder(c.body != "Not found")}
			w.status = c.status
			w.body.WriteString(c.body)
			sent, _ := io.ReadAll(c.r.Body)
			err := compare(c.r, sent, w)
			switch {
			case c.broken == "" && err != nil:
				t.Error(err)
			case c.broken != "" && (err == nil || !strings.Contains(err.Error(), c.broken)):
				t.Errorf("%v does not name %q", err, c.broken)
			}
		})
	}
}
