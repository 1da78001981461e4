package envoy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// memoryLimit is that of Envoy's container in compose.yaml and k8s/base, in bytes.
const memoryLimit = 1 << 30

// flooder is a connection that occupies much of Envoy's memory with few bytes. Each stream repeats a large cookie that
// HPACK has indexed, and the windows are closed, so that no body can be sent.
type flooder struct {
	conn   net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
	next   uint32 // stream
	sent   int    // bytes
}

func newFlooder(addr string) (*flooder, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	f := &flooder{conn: conn, next: 1}
	f.framer = http2.NewFramer(f, conn)
	f.hpack = hpack.NewEncoder(&f.block)
	_ = conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
	_, err = io.WriteString(f, http2.ClientPreface)
	if err == nil {
		err = f.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	return f, err
}

func (f *flooder) Write(data []byte) (int, error) {
	f.sent += len(data)
	return f.conn.Write(data)
}

// open sends a request whose cookies have 3,900 bytes each.
func (f *flooder) open(cookies int) error {
	f.block.Reset()
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/api/v1/chat"}, {":authority", "api.example"}} {
		// Sensitive fields are not indexed, which leaves the table to the cookie.
		_ = f.hpack.WriteField(hpack.HeaderField{Name: field[0], Value: field[1], Sensitive: true})
	}
	for range cookies {
		_ = f.hpack.WriteField(hpack.HeaderField{Name: "cookie", Value: strings.Repeat("x", 3900)})
	}
	id := f.next
	f.next += 2
	return f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block.Bytes(), EndHeaders: true, EndStream: true})
}

// flood opens connections with streams and returns the bytes sent. A connection that Envoy closes sends no more.
func (p *proxy) flood(t *testing.T, connections, streams, cookies int) (sent int) {
	t.Helper()
	for range connections {
		c, err := newFlooder(p.addr)
		if err != nil {
			continue // refused, which is a bound too
		}
		t.Cleanup(func() { _ = c.conn.Close() })
		for range streams {
			if c.open(cookies) != nil {
				break
			}
		}
		sent += c.sent
	}
	return sent
}

// allocated returns the bytes of Envoy's heap that are in use.
func (p *proxy) allocated(t *testing.T) int {
	t.Helper()
	var memory struct{ Allocated string }
	if err := json.Unmarshal(p.adminPage(t, "/memory"), &memory); err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(memory.Allocated)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// awaitAllowed sends requests until one is allowed: during a flood some may be refused.
func (p *proxy) awaitAllowed(t *testing.T, when string) {
	t.Helper()
	eventually(t, "a valid key "+when, func() error {
		got, err := p.send(t.Context(), request{path: companion}.with(bearer(p.env.creds.Chat)))
		if err == nil && got.status != 200 {
			err = errors.New(got.body)
		}
		return err
	})
}

// TestMemoryIsBounded floods Envoy with requests that occupy much more memory than they have bytes.
func TestMemoryIsBounded(t *testing.T) {
	for _, flood := range []struct {
		name                          string
		connections, streams, cookies int
		most                          int64 // bytes
	}{
		// The limits of headers and streams: 14 cookies are more than a request may have.
		{"few connections, too large headers", 60, 100, 14, memoryLimit / 2},
		{"few connections", 60, 100, 7, memoryLimit * 2 / 3},
		// The overload manager.
		{"many connections", 400, 64, 7, memoryLimit},
	} {
		for _, s := range setupsOf(t) {
			t.Run(flood.name+" "+s.String(), func(t *testing.T) {
				p := shared(t).ownEnvoy(t, s, envoy.Addresses{})
				p.awaitAllowed(t, "before the flood")
				sent := p.flood(t, flood.connections, flood.streams, flood.cookies)
				p.awaitAllowed(t, "during the flood")
				eventually(t, "memory is free again", func() error {
					if n := p.allocated(t); n > memoryLimit/3 {
						return fmt.Errorf("%d MiB are allocated", n>>20)
					}
					return nil
				})
				p.awaitAllowed(t, "after the flood")
				peak := p.peakMemory(t)
				t.Logf("%.2f MB sent, peak memory %d MiB", float64(sent)/1e6, peak>>20)
				if peak > flood.most {
					t.Errorf("peak memory %d MiB after %.2f MB, want at most %d MiB", peak>>20, float64(sent)/1e6, flood.most>>20)
				}
			})
		}
	}
}
