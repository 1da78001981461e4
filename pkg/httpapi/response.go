package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Response is the response to a request.
type Response struct {
	Status int
	Body   any // encoded as JSON; Text is sent as it is; nil means no body
	Header map[string]string
}

// Text is a body that is not JSON. Response.Header names its media type.
type Text string

// Encoded is a body that Encode has made. Several responses may share it.
type Encoded []byte

// OK is a response with status 200.
func OK(body any) (Response, error) { return Response{Status: http.StatusOK, Body: body}, nil }

// Encode encodes a body as JSON. The same body always has the same bytes.
func Encode(body any) ([]byte, error) {
	switch body := body.(type) {
	case nil:
		return nil, nil
	case Text:
		return []byte(body), nil
	case Encoded:
		return body, nil
	}
	raw, err := json.Marshal(body, jsontext.AllowInvalidUTF8(true), json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode response: %w", err)
	}
	return raw, nil
}

// writeTimeout bounds the sending of one response. Smaller cancels responses on slow links; larger keeps
// the connection of a client that does not read for longer. The connection has no such limit, because a
// long poll waits longer.
const writeTimeout = 10 * time.Second

func (r Response) write(w http.ResponseWriter, body []byte) {
	if s, ok := w.(*Stream); ok && (s.begun || r.Status == http.StatusOK) {
		_ = s.sendLine(body)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // not supported by the writers of tests
	w.Header().Set("Cache-Control", "no-store")
	if body != nil {
		w.Header().Set("Content-Type", jsonMedia)
	}
	for name, value := range r.Header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(r.Status)
	_, _ = w.Write(body)
}

// Error is the rejection of a request. Its message is for the client.
type Error struct {
	Status  int
	Message string
	Header  map[string]string
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// BadRequest is an Error with status 400 about a field or parameter.
func BadRequest(field, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Message: field + " " + fmt.Sprintf(format, args...)}
}

// RetryAfter returns the error with a Retry-After header.
func (e *Error) RetryAfter(seconds int64) *Error {
	e.Header = map[string]string{"Retry-After": fmt.Sprint(seconds)}
	return e
}

// Envelope is the body of every response to a rejected request.
type Envelope struct {
	Error      string `json:"error"`
	Message    string `json:"message"`
	StatusCode int    `json:"statusCode"`
}

var errorNames = map[int]string{
	http.StatusBadRequest:            "BAD_REQUEST",
	http.StatusUnauthorized:          "UNAUTHORIZED",
	http.StatusForbidden:             "FORBIDDEN",
	http.StatusNotFound:              "NOT_FOUND",
	http.StatusMethodNotAllowed:      "METHOD_NOT_ALLOWED",
	http.StatusConflict:              "CONFLICT",
	http.StatusRequestEntityTooLarge: "PAYLOAD_TOO_LARGE",
	http.StatusUnsupportedMediaType:  "UNSUPPORTED_MEDIA_TYPE",
	http.StatusTooManyRequests:       "TOO_MANY_REQUESTS",
	http.StatusServiceUnavailable:    "SERVICE_UNAVAILABLE",
}

func (e *Error) response() Response {
	return Response{Status: e.Status, Body: Envelope{errorNames[e.Status], e.Message, e.Status}, Header: e.Header}
}

// DecodeBody is DecodeRequest with an *Error.
func DecodeBody(body []byte, into any) error {
	err := DecodeRequest(body, into)
	if problem, ok := errors.AsType[*JSONError](err); ok {
		return BadRequest(problem.Field, "%s", problem.Problem)
	}
	return err
}
