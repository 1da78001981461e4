package explain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

const (
	// timeout is the time limit of a request. A check has 1 s, or twice key_api.timeout. Smaller fails
	// while a sidecar waits for a slow key API.
	timeout = 70 * time.Second
	// maxAnswer is the size limit of an answer in bytes. Larger costs memory if a server misbehaves.
	maxAnswer = 1 << 20
)

// Client sends requests to the admin listener of one sidecar.
type Client struct{ http *httpapi.Client }

// NewClient makes a client of the listener at rawURL: http://HOST:PORT or unix:///PATH.
func NewClient(rawURL string) (*Client, error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, errors.New("invalid URL") // the cause repeats the URL, which may hold a password
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, errors.New("URL is invalid: must have no user, query or fragment")
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/") && u.Path != "/":
	case u.Scheme == "http" && u.Hostname() != "":
	default:
		return nil, errors.New("URL is invalid: must be http://HOST:PORT or unix:///PATH")
	}
	return &Client{httpapi.NewClient(httpapi.ClientOptions{URL: u, ConnectTimeout: 10 * time.Second})}, nil
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Explain sends a request. It returns the answer, and its JSON text.
func (c *Client) Explain(ctx context.Context, r Request) (e Explanation, text []byte, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return e, nil, errors.New("encode request: text must be UTF-8")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := c.http.NewRequest(ctx, http.MethodPost, Path, bytes.NewReader(body))
	if err != nil {
		return e, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return e, nil, fmt.Errorf("cannot reach the sidecar: %w", httpapi.WithoutURL(err))
	}
	defer func() { _ = response.Body.Close() }()
	if text, err = httpapi.ReadBody(response.Body, maxAnswer); err != nil {
		return e, nil, fmt.Errorf("read the sidecar's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return e, nil, statusError(response.StatusCode, text)
	}
	if err := httpapi.Decode(text, &e); err != nil {
		return e, nil, fmt.Errorf("the sidecar's answer is invalid: %w", err)
	}
	return e, text, nil
}

func statusError(status int, text []byte) error {
	var rejected struct{ Message string }
	switch err := json.Unmarshal(text, &rejected); {
	case err == nil && rejected.Message != "":
		return fmt.Errorf("the sidecar rejects the request: %s (%d)", rejected.Message, status)
	case status == http.StatusForbidden:
		return errors.New("the sidecar answers only clients on its own machine (403): run keyctl there, or forward the port")
	case status == http.StatusNotFound:
		return errors.New("no explanations at this address (404): it must be a sidecar's listen.admin")
	}
	return fmt.Errorf("the sidecar answers with status %d", status)
}
