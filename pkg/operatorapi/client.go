package operatorapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const (
	// answerTimeout bounds a request, beyond the time that it asks the API to wait. The
	// API answers within milliseconds; a person would have given up before.
	answerTimeout = 30 * time.Second
	// maxBody bounds an answer. The largest is a page of 1,000 events or keys, some KiB each.
	maxBody = 32 << 20
)

// Client calls the operator API. It is safe for concurrent use.
type Client struct {
	base  string // without a slash at its end
	token func() (credential.Secret, error)
	http  *http.Client
}

// New makes a client of the API at rawURL: http://HOST:PORT, https://HOST:PORT or
// unix:///PATH. The token is asked for at every request, so that it may change.
func New(rawURL string, token func() (credential.Secret, error)) (*Client, error) {
	return NewTLS(rawURL, nil, token)
}

// NewTLS is New with what conf says of certificates, which is for https://HOST:PORT alone.
func NewTLS(rawURL string, conf *tls.Config, token func() (credential.Secret, error)) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     time.Minute,
		// Over HTTP/1 it repeats a change only if it has written nothing of it; over HTTP/2
		// it also believes a server's resets. See send.
		ForceAttemptHTTP2: false,
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	transport.DialContext = dialer.DialContext
	if conf != nil {
		transport.TLSClientConfig = conf.Clone()
		transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	base := strings.TrimRight(rawURL, "/")
	switch {
	case conf != nil && u.Scheme != "https":
		return nil, errors.New("it is not https://HOST:PORT, and certificates are for that alone")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, errors.New("it has a user, a query or a fragment")
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/") && u.Path != "/":
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}
		base = "http://localhost"
	case (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "":
	default:
		return nil, errors.New("it is none of http://HOST:PORT, https://HOST:PORT, unix:///PATH")
	}
	client := &http.Client{
		Transport: transport,
		// A redirect would take the token, or a change, somewhere that nobody named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Client{base: base, token: token, http: client}, nil
}

// Close ends the connections that stand idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do carries out a request. The error is an *Error.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	body, status, err := c.send(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	answer, err := decodeAnswer(body, r.answers)
	if err != nil {
		return Answer{}, unreadable(r, status, err)
	}
	return answer, nil
}

func unreadable(r Request, status int, cause error) *Error {
	return &Error{Status: status, Message: "the answer cannot be understood", OutcomeUnknown: r.mutates(), Cause: cause}
}

// send returns the body of an answer of the 200 kind; anything else is an *Error.
func (c *Client) send(ctx context.Context, r Request) (body []byte, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout+r.wait)
	defer cancel()
	// Once there was a connection the request may have arrived, whatever happens then. But
	// when the transport asks for another one, it has written nothing of a change on the
	// one before, which its server had closed while it stood idle.
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
		if wrapped, ok := asError[*url.Error](err); ok {
			err = wrapped.Err // without the method and URL, which the caller knows
		}
		message := "the key API cannot be reached"
		if sent.Load() {
			message = "the connection to the key API broke before its answer came"
		}
		return nil, 0, &Error{Message: message, OutcomeUnknown: sent.Load() && r.mutates(), Cause: err}
	}
	defer func() { _ = response.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("it is longer than %d MiB", maxBody>>20)
	}
	success := response.StatusCode == http.StatusOK || response.StatusCode == http.StatusCreated
	switch {
	case !success:
		return nil, 0, refusal(response.StatusCode, body, r.mutates())
	case err != nil:
		return nil, 0, unreadable(r, response.StatusCode, err)
	}
	return body, response.StatusCode, nil
}

// request makes the HTTP request. Nothing has been sent when it fails.
func (c *Client) request(ctx context.Context, r Request) (*http.Request, error) {
	token, err := c.token()
	if err != nil {
		return nil, &Error{Message: "the token cannot be had", Cause: err}
	}
	if r.method == "" {
		return nil, &Error{Message: "an empty request"}
	}
	address := c.base + "/v1"
	for _, segment := range r.path {
		// A path is cleaned on its way: these would name something else.
		if slices.Contains([]string{"", ".", ".."}, segment) {
			return nil, &Error{Message: fmt.Sprintf("%q cannot be a name or an id", segment)}
		}
		address += "/" + url.PathEscape(segment)
	}
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		encoded, err := json.Marshal(r.body)
		if err != nil {
			return nil, &Error{Message: "the request cannot be written as JSON", Cause: err}
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, &Error{Message: "the request cannot be made", Cause: err}
	}
	request.Header.Set("Authorization", "Bearer "+token.Reveal())
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}
