package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// unavailable counts checks that the sidecar has not answered: Envoy responds to them with 503.
const unavailable = "unavailable"

// connection is the part of gRPC over HTTP/2 that checks need (gRPC's PROTOCOL-HTTP2.md). One goroutine reads the answers
// and sends the next checks.
type connection struct {
	next    func() []byte
	conn    net.Conn
	in      *bufio.Reader
	answers map[string]int    // by reason
	reasons map[uint32]string // by stream, of answers whose end has not arrived
	parsed  map[string]string // reasons by message, since most messages are equal

	timed     bool // each check's latency is measured
	latencies []time.Duration

	mu       sync.Mutex
	out      *bufio.Writer
	framer   *http2.Framer
	headers  []byte               // of every check
	stream   uint32               // of the last check
	window   int                  // bytes that the sidecar accepts
	waiting  []byte               // a message that exceeds the window
	allowed  int                  // checks that may be sent
	renews   bool                 // each answer allows another check
	finished bool                 // no further checks are sent
	inFlight map[uint32]time.Time // when the checks without an answer were written, by stream
}

func connect(socket string, next func() []byte) (*connection, error) {
	const window = 1 << 30 // for answers; larger than all of them, so it is never updated
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &connection{
		next: next, conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriter(conn), headers: headers(),
		answers: map[string]int{}, reasons: map[uint32]string{}, parsed: map[string]string{}, inFlight: map[uint32]time.Time{}, stream: 1, window: 65535,
	}
	c.framer = http2.NewFramer(c.out, c.in)
	_, err = c.out.WriteString(http2.ClientPreface)
	return c, errors.Join(err,
		c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}),
		c.framer.WriteWindowUpdate(0, window), c.out.Flush())
}

// headers returns the header block of every check. It adds nothing to the dynamic table, so it can be repeated.
func headers() []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSize(0)
	for _, h := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", authv3.Authorization_Check_FullMethodName},
		{":authority", "sidecar"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
		{"grpc-timeout", fmt.Sprint(testbed.EnvoyTimeout.Milliseconds(), "m")},
	} {
		_ = encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}) // a bytes.Buffer returns no error
	}
	return block.Bytes()
}

// allow allows n more checks and sends them. If renews is set, each answer allows another one.
func (c *connection) allow(n int, renews bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allowed, c.renews = c.allowed+n, renews
	return errors.Join(c.send(), c.out.Flush())
}

// finish ends the sending of checks.
func (c *connection) finish() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return nil // the reader has noticed, and may have closed the connection
	}
	c.finished = true
	if len(c.inFlight) > 0 {
		return nil
	}
	return c.conn.SetReadDeadline(time.Now()) // wakes the reader
}

// send sends the allowed checks. c.mu is held.
func (c *connection) send() error {
	for c.allowed > 0 && !c.finished {
		message := c.waiting
		if c.waiting = nil; message == nil {
			message = c.next()
		}
		if message == nil {
			c.finished = true
			return nil
		}
		data := make([]byte, 5, 5+len(message)) // the prefix: not compressed, and the length
		binary.BigEndian.PutUint32(data[1:], uint32(len(message)))
		data = append(data, message...)
		if c.window < len(data) {
			c.waiting = message
			return nil
		}
		c.stream += 2
		c.window -= len(data)
		c.allowed--
		c.inFlight[c.stream] = time.Now()
		err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: c.headers, EndHeaders: true})
		if err = errors.Join(err, c.framer.WriteData(c.stream, true, data)); err != nil {
			return err
		}
	}
	return nil
}

// read reads until the connection is finished and all checks are answered.
func (c *connection) read() error {
	defer func() { _ = c.conn.Close() }()
	for {
		if done, err := c.flush(); done || err != nil {
			return err
		}
		frame, err := c.framer.ReadFrame()
		if err != nil && c.done() { // finish has woken the reader
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.handle(frame); err != nil {
			return err
		}
	}
}

func (c *connection) done() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.finished && len(c.inFlight) == 0
}

// flush sends buffered frames before the reader waits for the sidecar.
func (c *connection) flush() (done bool, err error) {
	if c.in.Buffered() > 0 {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.out.Flush()
	if c.finished && len(c.inFlight) == 0 {
		return true, err
	}
	return false, errors.Join(err, c.conn.SetReadDeadline(time.Now().Add(testbed.Patience)))
}

func (c *connection) handle(frame http2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stream := frame.Header().StreamID
	switch frame := frame.(type) {
	case *http2.DataFrame:
		c.reasons[stream] = c.reason(frame.Data())
	case *http2.HeadersFrame:
		if frame.StreamEnded() {
			return c.answered(stream)
		}
	case *http2.RSTStreamFrame:
		delete(c.reasons, stream)
		return c.answered(stream)
	case *http2.WindowUpdateFrame:
		if stream == 0 {
			c.window += int(frame.Increment)
			return c.send()
		}
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			return c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			return c.framer.WritePing(true, frame.Data)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the sidecar closes the connection: %v %s", frame.ErrCode, frame.DebugData())
	}
	return nil
}

// answered counts an answer. A stream that ends without a message is an error of the sidecar.
func (c *connection) answered(stream uint32) error {
	sent, ok := c.inFlight[stream]
	if !ok {
		return nil // grpc-go may reset a stream after its trailers
	}
	if c.timed {
		c.latencies = append(c.latencies, time.Since(sent))
	}
	reason, ok := c.reasons[stream]
	if delete(c.reasons, stream); !ok {
		reason = unavailable
	}
	c.answers[reason]++
	delete(c.inFlight, stream)
	if !c.renews {
		return nil
	}
	c.allowed++
	return c.send()
}

// reason parses an answer, which arrives in one frame.
func (c *connection) reason(data []byte) string {
	const limit = 1000 // bounds the memory of parsed, if each answer is different
	if reason, ok := c.parsed[string(data)]; ok {
		return reason
	}
	var response authv3.CheckResponse
	if len(data) < 5 || proto.Unmarshal(data[5:], &response) != nil {
		return "unreadable"
	}
	reason := response.GetDynamicMetadata().GetFields()["reason"].GetStringValue()
	if len(c.parsed) < limit {
		c.parsed[string(data)] = reason
	}
	return reason
}
