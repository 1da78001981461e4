package keyserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// answer is what one request gets.
type answer struct {
	status int
	body   any // nil: none
	header map[string]string
}

func ok(body any) (answer, error)      { return answer{status: http.StatusOK, body: body}, nil }
func created(body any) (answer, error) { return answer{status: http.StatusCreated, body: body}, nil }

// writeTimeout bounds the sending of one answer; there is none for the connection,
// because long polls live as long as they wait.
const writeTimeout = 10 * time.Second

// encode makes the bytes of the body.
func (a answer) encode() ([]byte, error) {
	switch body := a.body.(type) {
	case nil:
		return nil, nil
	case text:
		return []byte(body), nil
	}
	raw, err := json.Marshal(a.body, jsontext.AllowInvalidUTF8(true), json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	return raw, nil
}

func (a answer) write(w http.ResponseWriter, body []byte) {
	if s, lines := w.(*stream); lines && (s.begun || a.status == http.StatusOK) {
		_ = s.tell(body)
		return
	}
	// A writer without deadlines is a test's.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Cache-Control", "no-store")
	if body != nil {
		w.Header().Set("Content-Type", jsonMedia)
	}
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body)
}

// shown is a plaintext on its way to the one who minted it. It is written by this
// package's encoder alone: fmt, loggers and encoding/json find nothing in it.
type shown struct{ secret credential.Secret }

// MarshalJSONTo implements json.MarshalerTo: the single place where a plaintext
// leaves.
func (s shown) MarshalJSONTo(enc *jsontext.Encoder) error {
	return enc.WriteToken(jsontext.String(s.secret.Reveal()))
}

// problem is a request that is refused; its message is for the caller.
type problem struct {
	status  int
	message string
	header  map[string]string
}

// Error implements error.
func (p *problem) Error() string { return p.message }

// badRequest names the field or parameter and says what is wrong with it.
func badRequest(field, format string, args ...any) error {
	return &problem{status: http.StatusBadRequest, message: field + " " + fmt.Sprintf(format, args...)}
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

const (
	unavailable    = "The key API's store cannot answer"
	unknownOutcome = "; whether the change was made is not known"
)

func envelope(status int, message string) sidecarapi.ErrorResponse {
	return sidecarapi.ErrorResponse{Error: errorNames[status], Message: message, StatusCode: status}
}

// failure maps an operation's error to its answer. What is none of the errors that
// are meant for the caller stays in the log.
func (s *Server) failure(err error, side string, r *http.Request) answer {
	var refused *problem
	var conflict *keystore.Conflict
	switch {
	case errors.As(err, &refused):
	case errors.As(err, &conflict):
		refused = &problem{status: http.StatusConflict, message: conflict.Message}
	case errors.Is(err, keystore.ErrNotFound):
		refused = &problem{status: http.StatusNotFound, message: "No such account, key or session"}
	case errors.Is(err, keystore.ErrFull):
		refused = &problem{status: http.StatusServiceUnavailable, message: "Too many sidecars are on record", header: map[string]string{"Retry-After": "1"}}
		s.full.Do(func() {
			s.log.Error("too many sidecars are on record, new ones are refused: forget those that are gone, or replace the service token if it has leaked",
				zap.Int("limit", keystore.MaxSidecars))
		})
	case errors.Is(err, keystore.ErrCursor):
		refused = &problem{status: http.StatusBadRequest, message: "cursor is not one of this list"}
	default:
		refused = &problem{status: http.StatusServiceUnavailable, message: unavailable, header: map[string]string{"Retry-After": "1"}}
		if side != sidecarsSide && r.Method != http.MethodGet && r.Method != http.MethodHead {
			refused.message += unknownOutcome
		}
		if !errors.Is(r.Context().Err(), context.Canceled) { // else the client has gone, and took the call with it
			s.metrics.storeErrors.WithLabelValues(side).Inc()
			s.log.Error("the store failed", zap.String("side", side), zap.String("route", r.Pattern), zap.Error(err))
		}
	}
	message := refused.message
	var part *unfinished
	if errors.As(err, &part) {
		message += "; " + part.before
	}
	return answer{status: refused.status, body: envelope(refused.status, message), header: refused.header}
}
