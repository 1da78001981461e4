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

// unavailable is what Envoy answers when the sidecar does not.
const unavailable = "unavailable"

// connection is gRPC over HTTP/2 to the sidecar (gRPC's PROTOCOL-HTTP2.md), as much of it as
// checks need. What comes is read, and answered with the next check, by one goroutine.
type connection struct {
	next    func() []byte
	conn    net.Conn
	in      *bufio.Reader
	answers map[string]int    // how many, by reason
	reasons map[uint32]string // by the stream, of answers whose end has not come
	parsed  map[string]string // by the message: most are alike

	mu      sync.Mutex
	out     *bufio.Writer
	framer  *http2.Framer
	headers []byte // of every check
	stream  uint32 // of the last one
	window  int    // bytes that the sidecar takes
	waits   []byte // a message that is too long for the window
	allowed int    // checks that may begin
	renews  bool   // each answer allows one more
	ended   bool   // none begins any more
	open    int    // checks without an answer
}

func connect(socket string, next func() []byte) (*connection, error) {
	const room = 1 << 30 // for answers, and so no window has to be kept
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &connection{
		next: next, conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriter(conn), headers: headers(),
		answers: map[string]int{}, reasons: map[uint32]string{}, parsed: map[string]string{}, stream: 1, window: 65535,
	}
	c.framer = http2.NewFramer(c.out, c.in)
	_, err = c.out.WriteString(http2.ClientPreface)
	return c, errors.Join(err,
		c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: room}), c.framer.WriteWindowUpdate(0, room), c.out.Flush())
}

// headers are the same for each check: none goes into the table that later ones refer to.
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
		_ = encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}) // to memory
	}
	return block.Bytes()
}

// allow lets n more checks begin, and if it renews one more for each answer.
func (c *connection) allow(n int, renews bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allowed, c.renews = c.allowed+n, renews
	return errors.Join(c.begin(), c.out.Flush())
}

// end lets none begin any more.
func (c *connection) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil // the reader knows, and may have closed the connection
	}
	c.ended = true
	if c.open > 0 {
		return nil
	}
	return c.conn.SetReadDeadline(time.Now()) // the reader waits for nothing
}

// begin begins the checks that may be. c.mu is held.
func (c *connection) begin() error {
	for c.allowed > 0 && !c.ended {
		message := c.waits
		if c.waits = nil; message == nil {
			message = c.next()
		}
		if message == nil {
			c.ended = true
			return nil
		}
		data := make([]byte, 5, 5+len(message)) // not compressed, and the length
		binary.BigEndian.PutUint32(data[1:], uint32(len(message)))
		data = append(data, message...)
		if c.window < len(data) {
			c.waits = message
			return nil
		}
		c.stream += 2
		c.window -= len(data)
		c.allowed--
		c.open++
		err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: c.headers, EndHeaders: true})
		if err = errors.Join(err, c.framer.WriteData(c.stream, true, data)); err != nil {
			return err
		}
	}
	return nil
}

// read reads until all that began is answered and none may begin any more.
func (c *connection) read() error {
	defer func() { _ = c.conn.Close() }()
	for {
		if over, err := c.pause(); over || err != nil {
			return err
		}
		frame, err := c.framer.ReadFrame()
		if err != nil && c.over() { // it was told so while it waited
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.take(frame); err != nil {
			return err
		}
	}
}

func (c *connection) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended && c.open == 0
}

// pause comes before each frame is read: before the connection is waited for, what is to be
// sent is.
func (c *connection) pause() (over bool, err error) {
	if c.in.Buffered() > 0 {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.out.Flush()
	if c.ended && c.open == 0 {
		return true, err
	}
	return false, errors.Join(err, c.conn.SetReadDeadline(time.Now().Add(testbed.Patience)))
}

func (c *connection) take(frame http2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stream := frame.Header().StreamID
	switch frame := frame.(type) {
	case *http2.DataFrame:
		c.reasons[stream] = c.reason(frame.Data())
	case *http2.HeadersFrame:
		if !frame.StreamEnded() {
			return nil
		}
		return c.answered(stream)
	case *http2.RSTStreamFrame:
		delete(c.reasons, stream)
		return c.answered(stream)
	case *http2.WindowUpdateFrame:
		if stream == 0 {
			c.window += int(frame.Increment)
			return c.begin()
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
		return fmt.Errorf("the sidecar goes away: %v %s", frame.ErrCode, frame.DebugData())
	}
	return nil
}

// answered counts an answer. An end without a message is an error of the sidecar's.
func (c *connection) answered(stream uint32) error {
	reason, told := c.reasons[stream]
	if delete(c.reasons, stream); !told {
		reason = unavailable
	}
	c.answers[reason]++
	c.open--
	if !c.renews {
		return nil
	}
	c.allowed++
	return c.begin()
}

// reason reads an answer, which comes in one frame.
func (c *connection) reason(data []byte) string {
	const most = 1000
	if reason, known := c.parsed[string(data)]; known {
		return reason
	}
	var response authv3.CheckResponse
	if len(data) < 5 || proto.Unmarshal(data[5:], &response) != nil {
		return "unreadable"
	}
	reason := response.GetDynamicMetadata().GetFields()["reason"].GetStringValue()
	if len(c.parsed) < most {
		c.parsed[string(data)] = reason
	}
	return reason
}
