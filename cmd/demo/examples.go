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

// example is a request to try. Its headers may contain variables of demo.env.
type example struct {
	about   string
	path    string
	headers []string // NAME: VALUE
	status  int      // of the expected answer
}

const webApp = "Origin: https://app.phantomrouter.ai"

var examples = []example{
	{
		about: "a key with the scope reaches the upstream, which receives the identity and never the key",
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
		about: "a key at an endpoint for sessions of the web app only",
		path:  "/api/v1/me/usage", headers: []string{"Authorization: Bearer $PHANTOM_CHAT_KEY"}, status: http.StatusForbidden,
	},
	{
		about: "a session of the web app lists the keys of its account, from keyd",
		path:  "/api/v1/me/keys?limit=1", headers: []string{webApp, "Cookie: phantom_session=$PHANTOM_SESSION"}, status: http.StatusOK,
	},
}

// curlClient sends no headers that curl would not send.
var curlClient = &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: 5 * time.Second}

// showExamples makes the requests, reports ready, and shows each request with its answer.
func (s *stack) showExamples(ctx context.Context, v variables, out *console) error {
	answers := make([]string, len(examples))
	for i, e := range examples {
		err := s.Await(ctx, "the expected answer to "+e.about, func() (err error) {
			answers[i], err = e.send(ctx, v)
			return err
		})
		if err != nil {
			return err
		}
	}
	out.Say("ready: %s; Ctrl-C stops it", s.url())
	out.Say("\nTo try in another shell, after\n\n    set -a; . .demo/demo.env; set +a\n")
	for i, e := range examples {
		out.Say("# %s\n%s\n%s\n", e.about, e.command(), answers[i])
	}
	out.Say("# As an operator\nbin/keyctl account list\n\nLogs are in .demo/. Envoy's access log:\n")
	return nil
}

// send makes the request and returns the status and the body. An unexpected status is an error.
func (e example) send(ctx context.Context, v variables) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, v.get("PHANTOM_URL")+e.path, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("User-Agent", "curl")
	for _, header := range e.headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, os.Expand(value, v.get))
	}
	response, err := curlClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if response.StatusCode != e.status {
		return "", fmt.Errorf("%s: %s %s", e.path, response.Status, text)
	}
	return response.Status + "  " + strings.TrimSpace(string(text)), nil
}

// command returns the request as a shell command.
func (e example) command() string {
	var b strings.Builder
	fmt.Fprintf(&b, `curl "$PHANTOM_URL%s"`, e.path)
	for _, header := range e.headers {
		fmt.Fprintf(&b, ` -H "%s"`, header)
	}
	return b.String()
}
