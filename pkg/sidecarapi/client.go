package sidecarapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// ErrNotOffered is returned if the key API does not offer an operation (404).
var ErrNotOffered = errors.New("the key API does not offer this operation (404)")

// ErrConflict is returned by Changes for a 409: the poll's number is not larger than the one on
// record for the sidecar's name. Nothing was recorded.
var ErrConflict = errors.New("poll rejected: its number is not larger than the one on record for this sidecar (409)")

// Gone is the error for a 410, with the head of the log. It gives no lease. It is the only
// valid response to a poll with After -1. For other polls it means that the log was replaced or
// no longer reaches back to After.
type Gone struct {
	Epoch    string
	Revision int64
}

// Error implements error.
func (g *Gone) Error() string {
	return fmt.Sprintf("changes since then are not available: start at the head, revision %d (410)", g.Revision)
}

// StatusError is the error for a status that the operation does not define.
type StatusError struct{ Status int }

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the key API responded with status %d", e.Status)
}

// Options are the options of a Client.
type Options struct {
	// URL of the key API: http://, https://, or unix:///PATH of its socket.
	URL *url.URL
	// Token returns the current service token. If it is nil, requests have no token.
	Token func() credential.Secret
	// DialTLS connects for https. nil means the default configuration, with the system's CAs.
	DialTLS func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout of one resolve, retries included.
	Timeout time.Duration
	// DeadAfter is how long a connection may receive nothing before it is closed; see
	// httpapi.ClientOptions. 0 means 4 s.
	DeadAfter time.Duration
}

const (
	// deadAfter is the default of Options.DeadAfter. Smaller closes connections of a slow key API;
	// larger detects a lost one later.
	deadAfter = 4 * time.Second
	// connectTimeout is the time limit of connecting. Larger leaves less of a check's time for another try.
	connectTimeout = 2 * time.Second
	// maxConns is the maximum number of connections. More only queue inside the key API instead.
	maxConns = 64
	// retryPause is the delay before the first retry. Smaller retries before a restarted key API
	// listens again; larger takes more of the timeout.
	retryPause = 25 * time.Millisecond
	// maxUsageBody is the size limit of the response to a usage report, which is an error's body at most.
	maxUsageBody = 64 << 10
)

// Client sends requests to a key API. It is safe for concurrent use.
type Client struct {
	http    *httpapi.Client
	token   func() credential.Secret
	timeout time.Duration
}

// New makes a client. It opens no connection.
func New(o Options) *Client {
	client := httpapi.NewClient(httpapi.ClientOptions{
		URL: o.URL, DialTLS: o.DialTLS, HTTP2: true, ConnectTimeout: connectTimeout,
		DeadAfter: cmp.Or(o.DeadAfter, deadAfter), MaxConns: maxConns,
	})
	return &Client{http: client, token: o.Token, timeout: o.Timeout}
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Resolve requests the records of 1 to MaxResolve digests. There is one result for each digest,
// in their order. After an error no digest has a result.
func (c *Client) Resolve(ctx context.Context, digests []credential.Digest) (Resolved, error) {
	request := ResolveRequest{Credentials: make([]string, len(digests))}
	for i, d := range digests {
		request.Credentials[i] = d.Hex()
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	status, body, err := c.postWithRetry(ctx, ResolvePath, request, int64(maxHead+len(digests)*maxResult))
	if err != nil {
		return Resolved{}, err
	}
	if status != http.StatusOK {
		return Resolved{}, &StatusError{Status: status}
	}
	return decodeResolve(body, digests)
}

// Changes polls the change log. It returns ErrNotOffered, ErrConflict, *Gone, or another
// error, all of which give no lease. It sends the request once and never repeats it. The
// caller bounds it by ctx: the poll's own wait and the network's time.
func (c *Client) Changes(ctx context.Context, poll ChangesRequest) (Changes, error) {
	status, body, err := c.post(ctx, ChangesPath, poll, int64(maxHead+MaxChanges*maxChange))
	if err != nil {
		return Changes{}, err
	}
	switch status {
	case http.StatusOK:
		return decodeChanges(body, poll)
	case http.StatusNotFound:
		return Changes{}, ErrNotOffered
	case http.StatusConflict:
		return Changes{}, ErrConflict
	case http.StatusGone:
		gone, err := decodeGone(body)
		if err != nil {
			return Changes{}, err
		}
		return Changes{}, gone
	}
	return Changes{}, &StatusError{Status: status}
}

// Usage reports the use of keys. It returns ErrNotOffered if the key API does not record it.
func (c *Client) Usage(ctx context.Context, report UsageRequest) error {
	status, _, err := c.post(ctx, UsagePath, report, maxUsageBody)
	switch {
	case err != nil:
		return err
	case status == http.StatusNotFound:
		return ErrNotOffered
	case status != http.StatusNoContent:
		return &StatusError{Status: status}
	}
	return nil
}

// postWithRetry repeats a request without side effects until it gets a response or ctx ends.
// 502 and 503 are repeated too.
func (c *Client) postWithRetry(ctx context.Context, path string, request any, limit int64) (status int, body []byte, err error) {
	for pause := retryPause; ; pause *= 2 {
		status, body, err = c.post(ctx, path, request, limit)
		if !retryable(status, err) {
			return status, body, err
		}
		select {
		case <-ctx.Done():
			return status, body, err
		case <-time.After(pause):
		}
	}
}

func retryable(status int, err error) bool {
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	return err == nil && (status == http.StatusBadGateway || status == http.StatusServiceUnavailable)
}

func (c *Client) post(ctx context.Context, path string, request any, limit int64) (status int, body []byte, err error) {
	raw, err := json.Marshal(request)
	if err != nil {
		return 0, nil, fmt.Errorf("encode request: %w", err)
	}
	req, err := c.http.NewRequest(ctx, http.MethodPost, path, bytes.NewReader(raw))
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != nil {
		req.Header.Set("Authorization", "Bearer "+c.token().Reveal())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.closeIdleAfterTimeout(ctx)
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err = httpapi.ReadBody(resp.Body, limit); err != nil {
		c.closeIdleAfterTimeout(ctx)
		return 0, nil, fmt.Errorf("read response: %w", err)
	}
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode == http.StatusOK && !isJSON(ct) {
		return 0, nil, fmt.Errorf("content type %.40q is invalid: must be application/json", ct)
	}
	return resp.StatusCode, body, nil
}

// closeIdleAfterTimeout closes the idle connections if the request has timed out. In HTTP/1.1
// a connection without packets cannot be distinguished from a slow key API. If one is
// lost, the idle ones to the same host are too, and each of them would cost another timeout.
func (c *Client) closeIdleAfterTimeout(ctx context.Context) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.http.CloseIdleConnections()
	}
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == "application/json"
}
