package operatorapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

const (
	// connectTimeout is the time limit of connecting. Larger reports an unreachable API later.
	connectTimeout = 10 * time.Second
	// answerTimeout is the time limit of a request, beyond the time that it asks the API to wait.
	// Smaller fails requests that a busy store answers late; larger reports a hung API later.
	answerTimeout = 30 * time.Second
	// maxBody is the size limit of a response. The largest is a page of 1,000 events or keys, some
	// KiB each. Larger costs memory if a server misbehaves.
	maxBody = 32 << 20
)

// Client sends requests to the operator API. It is safe for concurrent use.
type Client struct {
	http  *httpapi.Client
	token func() (credential.Secret, error)
}

// New makes a client of the API at rawURL: http://HOST:PORT, https://HOST:PORT or
// unix:///PATH. It calls token for every request, so the token may change.
func New(rawURL string, token func() (credential.Secret, error)) (*Client, error) {
	return NewTLS(rawURL, nil, token)
}

// NewTLS is New with a TLS configuration. If it is not nil, the URL must be https://HOST:PORT.
func NewTLS(rawURL string, conf *tls.Config, token func() (credential.Secret, error)) (*Client, error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, errors.New("invalid URL") // the cause repeats the URL, which may hold a password
	case conf != nil && u.Scheme != "https":
		return nil, errors.New("URL is invalid: must be https://HOST:PORT if there are certificates")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, errors.New("URL is invalid: must have no user, query or fragment")
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/") && u.Path != "/":
	case (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "":
	default:
		return nil, errors.New("URL is invalid: must be http://HOST:PORT, https://HOST:PORT or unix:///PATH")
	}
	// Without HTTP/2 the transport repeats a change only if it has written nothing of it; see send.
	client := httpapi.NewClient(httpapi.ClientOptions{URL: u, TLS: conf, Proxy: true, ConnectTimeout: connectTimeout})
	return &Client{http: client, token: token}, nil
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do sends a request. The error is an *Error.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	body, status, err := c.send(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	answer, err := decodeAnswer(body, r.answers)
	if err != nil {
		return Answer{}, invalidResponse(r, status, err)
	}
	return answer, nil
}

// send returns the body of a successful response. The error is an *Error.
func (c *Client) send(ctx context.Context, r Request) (body []byte, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout+r.wait)
	defer cancel()
	// Once there is a connection, the request may have arrived. But if the transport then gets
	// another one, it has written nothing of a change on the first, which was idle and closed.
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { sent.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { sent.Store(true) },
	})
	request, err := c.request(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		message := "cannot reach the key API"
		if sent.Load() {
			message = "lost the connection to the key API before the response"
		}
		return nil, 0, &Error{Message: message, OutcomeUnknown: sent.Load() && r.mutates(), Cause: httpapi.WithoutURL(err)}
	}
	defer func() { _ = response.Body.Close() }()
	body, err = httpapi.ReadBody(response.Body, maxBody)
	switch {
	case response.StatusCode != http.StatusOK && response.StatusCode != http.StatusCreated:
		return nil, 0, statusError(response.StatusCode, body, r.mutates())
	case err != nil:
		return nil, 0, invalidResponse(r, response.StatusCode, err)
	}
	return body, response.StatusCode, nil
}

// request makes the HTTP request. Nothing has been sent if it fails.
func (c *Client) request(ctx context.Context, r Request) (*http.Request, error) {
	token, err := c.token()
	if err != nil {
		return nil, &Error{Message: "read token", Cause: err}
	}
	if r.method == "" {
		return nil, &Error{Message: "empty request"}
	}
	path := "/v1"
	for _, segment := range r.path {
		// Servers and proxies resolve these segments, so the path would name something else.
		if slices.Contains([]string{"", ".", ".."}, segment) {
			return nil, &Error{Message: fmt.Sprintf("%q is not a valid name or ID", segment)}
		}
		path += "/" + url.PathEscape(segment)
	}
	if len(r.query) > 0 {
		path += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		encoded, err := json.Marshal(r.body)
		if err != nil {
			return nil, &Error{Message: "encode request", Cause: err}
		}
		body = bytes.NewReader(encoded)
	}
	request, err := c.http.NewRequest(ctx, r.method, path, body)
	if err != nil {
		return nil, &Error{Message: "make request", Cause: err}
	}
	request.Header.Set("Authorization", "Bearer "+token.Reveal())
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}
