package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// client is one connection of gRPC over HTTP/2 (gRPC's PROTOCOL-HTTP2.md) that works as an Envoy worker does: one goroutine reads
// what has arrived, sends the next check of each stream that was answered, and writes once before it waits again.
//
// A grpc-go client works otherwise: it sends PING frames to estimate the bandwidth, which the server must answer, and its writes
// depend on its scheduler, so the server reads other batches than from Envoy.
type client struct {
	conn      net.Conn
	in        *bufio.Reader
	out       *bufio.Writer
	framer    *http2.Framer
	encoder   *hpack.Encoder
	headers   *bytes.Buffer // of one check
	messages  [][]byte      // of the checks, in turn, each with gRPC's prefix
	next      int           // message
	stream    uint32        // of the last check
	began     map[uint32]time.Time
	latencies []time.Duration
}

// window is HTTP/2's flow control window for answers. It is larger than all of them, so it is never updated.
const window = 1 << 30

func connect(socket string, messages [][]byte) (*client, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &client{
		conn: conn, in: bufio.NewReaderSize(conn, 64<<10), out: bufio.NewWriterSize(conn, 64<<10),
		headers: new(bytes.Buffer), messages: messages, stream: 1, began: map[uint32]time.Time{},
	}
	c.encoder = hpack.NewEncoder(c.headers)
	c.framer = http2.NewFramer(c.out, c.in)
	c.framer.SetReuseFrames()
	_, err = c.out.WriteString(http2.ClientPreface)
	return c, errors.Join(err, c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}),
		c.framer.WriteWindowUpdate(0, window))
}

// headers are the metadata that Envoy with envoy.yaml sends with a check.
var headers = []hpack.HeaderField{
	{Name: ":method", Value: "POST"},
	{Name: ":scheme", Value: "http"},
	{Name: ":path", Value: authv3.Authorization_Check_FullMethodName},
	{Name: ":authority", Value: "authz"},
	{Name: "te", Value: "trailers"},
	{Name: "content-type", Value: "application/grpc"},
	{Name: "grpc-timeout", Value: fmt.Sprint(testbed.EnvoyTimeout.Milliseconds(), "m")},
	{Name: "x-envoy-expected-rq-timeout-ms", Value: fmt.Sprint(testbed.EnvoyTimeout.Milliseconds())},
}

// run keeps so many checks in flight until the end, and waits for the last answers.
func (c *client) run(streams int, end time.Time) error {
	defer func() { _ = c.conn.Close() }()
	if err := c.conn.SetDeadline(end.Add(testbed.Patience)); err != nil {
		return err
	}
	for range streams {
		if err := c.send(time.Now()); err != nil {
			return err
		}
	}
	for len(c.began) > 0 {
		if c.in.Buffered() == 0 {
			if err := c.out.Flush(); err != nil {
				return err
			}
		}
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		if err := c.handle(frame, end); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) send(now time.Time) error {
	c.stream += 2
	c.began[c.stream] = now
	c.headers.Reset()
	for _, field := range headers {
		_ = c.encoder.WriteField(field) // a bytes.Buffer returns no error
	}
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: c.headers.Bytes(), EndHeaders: true})
	message := c.messages[c.next%len(c.messages)]
	c.next++
	return errors.Join(err, c.framer.WriteData(c.stream, true, message))
}

func (c *client) handle(frame http2.Frame, end time.Time) error {
	switch frame := frame.(type) {
	case *http2.DataFrame:
		return checkAllowed(frame.Data())
	case *http2.HeadersFrame:
		if frame.StreamEnded() {
			return c.answered(frame.StreamID, end)
		}
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			return c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			return c.framer.WritePing(true, frame.Data)
		}
	case *http2.WindowUpdateFrame: // a stream has one small message, and the server updates the connection's in time
	default:
		return fmt.Errorf("server sent %v", frame)
	}
	return nil
}

// answered notes the latency of an answer and sends the stream's next check.
func (c *client) answered(stream uint32, end time.Time) error {
	began, ok := c.began[stream]
	if !ok {
		return fmt.Errorf("stream %d was not open", stream)
	}
	delete(c.began, stream)
	now := time.Now()
	c.latencies = append(c.latencies, now.Sub(began))
	if now.After(end) {
		return nil
	}
	return c.send(now)
}

// checkAllowed returns an error unless data begins with an answer that Envoy takes as an allow. Both servers write the status
// first: field 1, empty.
func checkAllowed(data []byte) error {
	const prefix = 5
	if len(data) < prefix+2 || data[prefix] != 0x0a || data[prefix+1] != 0 {
		return fmt.Errorf("answer is not an allow: %x", data)
	}
	return nil
}
