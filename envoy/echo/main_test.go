package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
)

func TestAnswerDescribesRequest(t *testing.T) {
	request := httptest.NewRequest(http.MethodPost, "http://api.example/a%20b?q=<1>", strings.NewReader(`{"x":"ü"}`))
	request.Header["X-Twice"] = []string{"one", "two"}
	recorder := httptest.NewRecorder()
	answer(recorder, request)

	want := `{"method":"POST","path":"http://api.example/a%20b?q=<1>","headers":{"host":["api.example"],"x-twice":["one","two"]},"body":"{\"x\":\"ü\"}"}` + "\n"
	if diff := cmp.Diff(want, recorder.Body.String()); recorder.Code != http.StatusOK || diff != "" {
		t.Errorf("%d, body (-want +got):\n%s", recorder.Code, diff)
	}
	if got := recorder.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("content-type %q", got)
	}
}

func TestTooLargeBodyIsRefused(t *testing.T) {
	request := httptest.NewRequest(http.MethodPost, "/", io.LimitReader(zeros{}, maxBody+1))
	recorder := httptest.NewRecorder()
	answer(recorder, request)
	if recorder.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d", recorder.Code)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestWebSocketMessagesAreReturned(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(answer))
	defer server.Close()
	conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	for _, message := range []string{"hello", ""} {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if kind, got, err := conn.Read(t.Context()); err != nil || kind != websocket.MessageText || string(got) != message {
			t.Errorf("%q returned as %v %q, %v", message, kind, got, err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(answer))
	defer server.Close()
	failing := httptest.NewServer(http.NotFoundHandler())
	defer failing.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, c := range []struct {
		ctx  context.Context
		args string
		want int
	}{
		{t.Context(), "-h", 0},
		{t.Context(), "-nope", 2},
		{t.Context(), "extra", 2},
		{t.Context(), "-listen :" + port + " -healthcheck", 0},
		{t.Context(), "-listen [::]:" + port + " -healthcheck", 0},
		{t.Context(), "-listen " + failing.Listener.Addr().String() + " -healthcheck", 1},
		{t.Context(), "-listen nonsense -healthcheck", 1},
		{t.Context(), "-listen 127.0.0.1:" + port, 1}, // in use
		{stopped, "-listen 127.0.0.1:0", 0},
	} {
		var stderr strings.Builder
		if got := run(c.ctx, strings.Fields(c.args), &stderr); got != c.want {
			t.Errorf("echo %s: exit %d, want %d; %s", c.args, got, c.want, stderr.String())
		}
	}
}
