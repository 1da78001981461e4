package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// example is a request to try. Its texts may name the variables of demo.env.
type example struct {
	about   string
	path    string
	headers []string // NAME: VALUE
	status  int      // that the answer must have
}

const webApp = "Origin: https://app.phantomrouter.ai"

var examples = []example{
	{
		about: "a key with the scope reaches the upstream, which learns who asks and never sees the key",
		path:  "/api/v1/me/vector-store", headers: []string{"Authorization: Bearer $PHANTOM_CHAT_KEY"}, status: http.StatusOK,
	},
	{about: "no key", path: "/api/v1/me/vector-store", status: http.StatusUnauthorized},
	{
		about: "a key without the scope",
		path:  "/api/v1/me/vector-store", headers: []string{"Authorization: Bearer $PHANTOM_KEY"}, status: http.StatusForbidden,
	},
	{
		about: "a revoked key",
		path:  "/api/v1/me", headers: []string{"Authorization: Bearer $PHANTOM_REVOKED_KEY"}, status: http.StatusUnauthorized,
	},
	{
		about: "an expired key",
		path:  "/api/v1/me", headers: []string{"Authorization: Bearer $PHANTOM_EXPIRED_KEY"}, status: http.StatusUnauthorized,
	},
	{
		about: "a key of a terminated account",
		path:  "/api/v1/me", headers: []string{"Authorization: Bearer $PHANTOM_TERMINATED_KEY"}, status: http.StatusForbidden,
	},
	{
		about: "a key where only the web app's sessions may go",
		path:  "/api/v1/me/usage", headers: []string{"Authorization: Bearer $PHANTOM_CHAT_KEY"}, status: http.StatusForbidden,
	},
	{
		about: "a session of the web app lists its account's keys, from keyd",
		path:  "/api/v1/me/keys?limit=1", headers: []string{webApp, "Cookie: phantom_session=$PHANTOM_SESSION"}, status: http.StatusOK,
	},
}

// plainClient adds nothing that curl would not send.
var plainClient = &http.Client{Transport: &http.Transport{DisableCompression: true}}

// tour makes the requests and returns each with the answer that it got.
func (s *stack) tour(ctx context.Context, v variables) ([]string, error) {
	texts := make([]string, len(examples))
	for i, e := range examples {
		var status, body string
		err := s.await(ctx, "the right answer to "+e.about, func(ctx context.Context) (err error) {
			status, body, err = e.ask(ctx, v)
			return err
		})
		if err != nil {
			return nil, err
		}
		texts[i] = fmt.Sprintf("# %s\n%s\n%s  %s\n", e.about, e.command(), status, body)
	}
	return texts, nil
}

// ask makes the request; an answer of another status is an error.
func (e example) ask(ctx context.Context, v variables) (status, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, v.get("PHANTOM_URL")+e.path, nil)
	if err != nil {
		return "", "", err
	}
	request.Header.Set("User-Agent", "curl")
	for _, header := range e.headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, os.Expand(value, v.get))
	}
	response, err := plainClient.Do(request)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return "", "", err
	}
	if response.StatusCode != e.status {
		return "", "", fmt.Errorf("the answer was %s %s", response.Status, text)
	}
	return response.Status, strings.TrimSpace(string(text)), nil
}

// command is the same request for a shell.
func (e example) command() string {
	var b strings.Builder
	fmt.Fprintf(&b, `curl "$PHANTOM_URL%s"`, e.path)
	for _, header := range e.headers {
		fmt.Fprintf(&b, ` -H "%s"`, header)
	}
	return b.String()
}
