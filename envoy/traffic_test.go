package envoy_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestHEAD(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		for _, http2 := range []bool{false, true} {
			got := p.do(t, request{method: "HEAD", path: companion, http2: http2})
			want := noCredential.header()
			got.header.Del("Date")
			if got.status != 401 || got.body != "" || fmt.Sprint(got.header) != fmt.Sprint(want) {
				t.Errorf("denied: %d %q %v, want %v", got.status, got.body, got.header, want)
			}
			got = p.do(t, request{method: "HEAD", path: companion, http2: http2}.with(bearer(p.env.creds.Chat)))
			if got.status != 200 || got.body != "" {
				t.Errorf("allowed: %d %q", got.status, got.body)
			}
		}
	})
}

func TestLargeBody(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 5<<20/16)
	onEach(t, func(t *testing.T, p *proxy) {
		for _, http2 := range []bool{false, true} {
			post := request{method: "POST", path: "/api/v1/chat", body: body, http2: http2}
			got := p.do(t, post.with(bearer(p.env.creds.Chat)))
			if echo, ok := got.upstream(); !ok || echo.Method != "POST" || echo.Body != body {
				t.Errorf("HTTP/2 %v: %d, %d bytes returned", http2, got.status, len(echo.Body))
			}
		}
		// A denial does not wait for the body.
		denied := request{method: "POST", path: "/api/v1/chat", body: body, http2: true}.with(bearer(p.env.creds.Plain))
		scopeMissing.check(t, p.do(t, denied))
	})
}

func TestWebSocket(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		dial := func(key string) (*websocket.Conn, *http.Response, error) {
			return websocket.Dial(ctx, "ws://"+p.addr+"/api/v1/chat/live", &websocket.DialOptions{
				HTTPHeader: http.Header{"Authorization": {"Bearer " + key}},
			})
		}
		conn, _, err := dial(p.env.creds.Chat)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseNow() }()
		if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, message, err := conn.Read(ctx); err != nil || string(message) != "hello" {
			t.Errorf("%q, %v", message, err)
		}
		for key, row := range map[string]denial{p.env.creds.Plain: scopeMissing, p.env.creds.Revoked: keyRevoked} {
			_, response, err := dial(key)
			if err == nil || response == nil {
				t.Fatalf("%s: connected, or no answer: %v", row.reason, err)
			}
			got, readErr := read(response)
			if readErr != nil {
				t.Fatal(readErr)
			}
			row.check(t, got)
		}
	})
}

// call makes a unary gRPC call to a path through Envoy.
func (p *proxy) call(t *testing.T, path, key string) (string, metadata.MD, error) {
	t.Helper()
	conn, err := grpc.NewClient(p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	var out wrapperspb.StringValue
	var trailer metadata.MD
	err = conn.Invoke(ctx, path, wrapperspb.String("hello"), &out, grpc.Trailer(&trailer))
	return out.Value, trailer, err
}

func TestGRPC(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		c := p.env.creds
		if got, _, err := p.call(t, "/api/v1/chat/Say", c.Chat); err != nil || got != "hello" {
			t.Errorf("allowed: %q, %v", got, err)
		}
		for _, d := range []struct {
			path, key string
			code      codes.Code
			row       denial
		}{
			{"/api/v1/chat/Say", "", codes.Unauthenticated, noCredential},
			{"/api/v1/chat/Say", c.Unknown, codes.Unauthenticated, keyUnknown},
			{"/api/v1/chat/Say", c.Revoked, codes.Unauthenticated, keyRevoked},
			{"/api/v1/chat/Say", c.Plain, codes.PermissionDenied, scopeMissing},
			{"/api/v1/chat/Say", c.Terminated, codes.PermissionDenied, terminated},
			{"/phantom.Chat/Say", c.Chat, codes.PermissionDenied, noPolicy},
		} {
			_, _, err := p.call(t, d.path, d.key)
			if s := status.Convert(err); s.Code() != d.code || s.Message() != d.row.message {
				t.Errorf("%s: %v %q, want %v %q", d.row.reason, s.Code(), s.Message(), d.code, d.row.message)
			}
		}
	})
}

// TestGRPCDenialHasTrailersOnly: it has no body.
func TestGRPCDenialHasTrailersOnly(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		for _, contentType := range []string{"application/grpc", "application/grpc+proto"} {
			got := p.do(t, request{method: "POST", path: "/api/v1/chat", http2: true}.with("Content-Type: "+contentType, "Te: trailers"))
			want := http.Header{
				"Grpc-Status": {"16"}, "Grpc-Message": {"Missing API key"}, "Content-Type": {"application/grpc"},
				"Cache-Control": {"no-store"}, "Www-Authenticate": {realm}, "Server": {"envoy"}, "Vary": {"Origin"},
			}
			got.header.Del("Date")
			if diff := cmp.Diff(want, got.header); got.status != 200 || got.body != "" || diff != "" {
				t.Errorf("%s: %d %q (-want +got):\n%s", contentType, got.status, got.body, diff)
			}
		}
		// These are not gRPC to Envoy: they receive plain HTTP with the JSON body.
		for _, contentType := range []string{"application/grpc-web", "application/grpcx", "application/grpc; x"} {
			noCredential.check(t, p.do(t, request{method: "POST", path: "/api/v1/chat"}.with("Content-Type: "+contentType)))
		}
	})
}
