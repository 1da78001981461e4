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
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// ErrNotOffered is returned where the key API does not offer an operation (404).
var ErrNotOffered = errors.New("the key API does not offer this operation")

// ErrConflict is returned by Changes for an answer 409: the poll's number is not larger than
// the one on record for the sidecar's name. Nothing was recorded.
var ErrConflict = errors.New("the poll is refused: its number is not larger than the one on record for this sidecar (409)")

// Gone is the answer 410 to a poll, with the head of the log. No lease is given with it. It
// is the only valid answer to a poll with After -1. For other polls it means that the
// log was replaced or no longer reaches back to After.
type Gone struct {
	Epoch    string
	Revision int64
}

// Error implements error.
func (g *Gone) Error() string {
	return fmt.Sprintf("no changes from there on: poll from the head (410; head %d)", g.Revision)
}

// StatusError is an answer that is none of the operation's own.
type StatusError struct{ Status int }

// Error implements error.
func (e *StatusError) Error() string { return fmt.Sprintf("the key API answered %d", e.Status) }

// Options of a Client.
type Options struct {
	// URL of the key API: http://, https://, or unix:///PATH of its socket.
	URL *url.URL
	// Token returns the service token of the moment; nil sends none.
	Token func() credential.Secret
	// DialTLS connects and shakes hands for https; nil takes the system's roots.
	DialTLS func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout of one resolve, its retries included.
	Timeout time.Duration
	// DeadAfter is how long a connection may receive nothing before it is closed, in HTTP/2
	// and for TCP without TLS. The first half passes without traffic, the second half without
	// an answer to a ping or keep-alive probe. Smaller closes connections of a slow key API;
	// larger detects a lost one later. 0 means 4 s.
	DeadAfter time.Duration
}

// deadAfter is the default of Options.DeadAfter.
const deadAfter = 4 * time.Second

// keepAliveProbes is how many TCP keep-alive probes must be lost. Fewer closes connections
// that lose single packets.
const keepAliveProbes = 2

// Client asks a key API. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	base    string
	token   func() credential.Secret
	timeout time.Duration
}

// New makes a client. It opens no connection.
func New(o Options) *Client {
	half := cmp.Or(o.DeadAfter, deadAfter) / 2
	transport := &http.Transport{
		DialTLSContext:      o.DialTLS,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 64,
		// More connections than this would only queue inside the key API instead.
		MaxConnsPerHost:        64,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    2 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // a bounded body must not unpack into an unbounded one
		// A connection whose packets are lost reports no error. Without pings every request
		// would be sent on it until TCP gives up, which takes minutes.
		HTTP2: &http.HTTP2Config{SendPingTimeout: half, PingTimeout: half, WriteByteTimeout: 2 * half},
	}
	dialer := &net.Dialer{
		Timeout:         2 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: half, Interval: half / keepAliveProbes, Count: keepAliveProbes},
	}
	base := strings.TrimSuffix(o.URL.String(), "/")
	transport.DialContext = dialer.DialContext
	if o.URL.Scheme == "unix" {
		base = "http://key-api"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", o.URL.Path)
		}
	}
	return &Client{
		http: &http.Client{
			Transport: transport,
			// A redirect would carry the service token to a place that nobody configured.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base:    base,
		token:   o.Token,
		timeout: o.Timeout,
	}
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Resolve asks for the facts about 1 to MaxResolve digests; one result for each, in
// their order. An error says that nothing at all was learned.
func (c *Client) Resolve(ctx context.Context, digests []credential.Digest) (Resolved, error) {
	ask := ResolveRequest{Credentials: make([]string, len(digests))}
	for i, d := range digests {
		ask.Credentials[i] = d.Hex()
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	status, body, err := c.postSafely(ctx, ResolvePath, ask, int64(maxHead+len(digests)*maxResult))
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

// Usage reports how keys were used. It returns ErrNotOffered where nobody wants to know.
func (c *Client) Usage(ctx context.Context, report UsageRequest) error {
	const limit = 64 << 10
	status, _, err := c.post(ctx, UsagePath, report, limit)
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

// retryPause is the wait before a second try: long enough for a restarted key API's
// listener to be back on the same host, short against any sensible timeout.
const retryPause = 25 * time.Millisecond

// postSafely posts what may be asked twice, and does so as long as ctx allows when no
// answer came or the answer asks for it.
func (c *Client) postSafely(ctx context.Context, path string, ask any, limit int64) (status int, body []byte, err error) {
	for pause := retryPause; ; pause *= 2 {
		status, body, err = c.post(ctx, path, ask, limit)
		if !worthRetrying(status, err) {
			return status, body, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return status, body, err
		case <-timer.C:
		}
	}
}

func worthRetrying(status int, err error) bool {
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	return err == nil && (status == http.StatusBadGateway || status == http.StatusServiceUnavailable)
}

func (c *Client) post(ctx context.Context, path string, ask any, limit int64) (int, []byte, error) {
	raw, err := json.Marshal(ask)
	if err != nil {
		return 0, nil, fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(raw))
	if err != nil {
		return 0, nil, fmt.Errorf("make the request: %w", err)
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
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		c.closeIdleAfterTimeout(ctx)
		return 0, nil, fmt.Errorf("read the answer: %w", err)
	}
	if int64(len(body)) > limit {
		return 0, nil, fmt.Errorf("the answer is larger than %d bytes", limit)
	}
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode == http.StatusOK && !isJSON(ct) {
		return 0, nil, fmt.Errorf("the answer's content type is %.40q, not application/json", ct)
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
