package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ClientOptions are the options of a Client.
type ClientOptions struct {
	// URL of the server: http://HOST:PORT, https://HOST:PORT or unix:///PATH, with a path prefix for the first two.
	URL *url.URL
	// TLS is the configuration for https. nil means the defaults, with the system's CAs.
	TLS *tls.Config
	// DialTLS connects for https in place of TLS. Its configuration can change while the client is in use.
	DialTLS func(ctx context.Context, network, addr string) (net.Conn, error)
	// Proxy makes the client use the proxy that the environment names (HTTPS_PROXY and others).
	Proxy bool
	// HTTP2 allows HTTP/2 over TLS. A transport repeats a request over HTTP/2 if the server resets
	// its stream, over HTTP/1.1 only if it has written nothing of a request that is not idempotent.
	HTTP2 bool
	// ConnectTimeout is the time limit of connecting, and of the TLS handshake after it.
	ConnectTimeout time.Duration
	// DeadAfter is how long a connection may receive nothing before it is closed, in HTTP/2
	// and for TCP without TLS. The first half passes without traffic, the second half without
	// an answer to a ping or keep-alive probe. Smaller closes connections of a slow server;
	// larger detects a lost one later. 0 means the defaults of TCP and no pings.
	DeadAfter time.Duration
	// MaxConns is the maximum number of connections. Requests beyond it wait. 0 means no limit.
	MaxConns int
}

const (
	// keepAliveProbes is the number of unanswered TCP keep-alive probes that closes a connection. Fewer
	// closes connections that lose single packets.
	keepAliveProbes = 2
	// maxIdleConns is how many idle connections are kept. Fewer costs a new connection, and with TLS a
	// handshake, for requests that come in bursts.
	maxIdleConns = 64
	// idleConnTimeout is how long an idle connection is kept. Longer costs the server memory.
	idleConnTimeout = 90 * time.Second
	// maxHeaderBytes is the size limit of a response's header. Larger costs memory if a server misbehaves.
	maxHeaderBytes = 64 << 10
)

// Client sends requests to one server. It follows no redirect, because that would carry the token
// and the request to a server that is not configured.
type Client struct {
	http.Client
	base string
}

// NewClient makes a client. It opens no connection.
func NewClient(o ClientOptions) *Client {
	half := o.DeadAfter / 2
	dialer := &net.Dialer{
		Timeout:         o.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: half, Interval: half / keepAliveProbes, Count: keepAliveProbes},
	}
	transport := &http.Transport{
		DialContext:            dialer.DialContext,
		DialTLSContext:         o.DialTLS,
		TLSClientConfig:        o.TLS,
		TLSHandshakeTimeout:    o.ConnectTimeout,
		Protocols:              new(http.Protocols),
		MaxIdleConnsPerHost:    maxIdleConns,
		MaxConnsPerHost:        o.MaxConns,
		IdleConnTimeout:        idleConnTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true, // the size limit of a body is that of its unpacked form
		// A connection whose packets are lost reports no error. Without pings every request
		// would be sent on it until TCP gives up, which takes minutes.
		HTTP2: &http.HTTP2Config{SendPingTimeout: half, PingTimeout: half, WriteByteTimeout: o.DeadAfter},
	}
	transport.Protocols.SetHTTP1(true)
	transport.Protocols.SetHTTP2(o.HTTP2)
	if o.TLS != nil && !o.HTTP2 {
		transport.TLSClientConfig = o.TLS.Clone()
		transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	if o.Proxy {
		transport.Proxy = http.ProxyFromEnvironment
	}
	base := strings.TrimRight(o.URL.String(), "/")
	if o.URL.Scheme == "unix" {
		base = "http://localhost"
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", o.URL.Path)
		}
	}
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{Client: http.Client{Transport: transport, CheckRedirect: noRedirect}, base: base}
}

// NewRequest makes a request for a path of the server, which may have a query. It continues the trace
// of ctx.
func (c *Client) NewRequest(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err == nil {
		propagate(ctx, r.Header)
	}
	return r, err
}

// ReadBody reads a body of at most limit bytes to its end.
func ReadBody(body io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(text)) > limit {
		return nil, fmt.Errorf("body is too large: must be at most %d bytes", limit)
	}
	return text, err
}

// WithoutURL returns the cause of a url.Error, whose text repeats the method and the URL.
func WithoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
