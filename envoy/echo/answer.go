package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"
)

const (
	// maxBody is the largest body that is echoed, in bytes. Larger takes more memory; smaller refuses more with 413.
	maxBody = 64 << 20
	// maxMessage is the largest WebSocket message, in bytes. Larger takes more memory; smaller closes more connections.
	maxMessage = 16 << 20
)

// echo is the answer. The order of its fields is fixed.
type echo struct {
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"`
}

func answer(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		echoMessages(w, r)
	case isGRPC(r):
		echoCall(w, r)
	default:
		echoRequest(w, r)
	}
}

func echoRequest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		bodyError(w, err)
		return
	}
	headers := map[string][]string{"host": {r.Host}} // net/http removes it from the headers
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = values
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	// An error means that the client has closed the connection.
	_ = encoder.Encode(echo{Method: r.Method, Path: r.RequestURI, Headers: headers, Body: string(body)})
}

func bodyError(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		http.Error(w, "the body is larger than 64 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	http.Error(w, "the body is incomplete", http.StatusBadRequest)
}

// isGRPC reports whether a gRPC client sent the request: it always accepts trailers.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && r.Header.Get("Te") == "trailers" &&
		strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// echoCall returns the message of a unary call in its frame.
func echoCall(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		bodyError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(body)
	w.Header().Set("Grpc-Status", "0")
}

// echoMessages returns WebSocket messages until the client closes the connection. It accepts any origin, since Envoy
// checks it.
func echoMessages(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxMessage)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}
