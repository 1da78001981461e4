package main

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// grpc-go resets a stream after its trailers if it answers before it has processed the end of the request.
func TestResetAfterTrailersIsNotAnotherAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go answerWithReset(t, listener)

	messages := [][]byte{[]byte("check"), nil}
	c, err := connect(socket, func() []byte {
		message := messages[0]
		messages = messages[1:]
		return message
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.allow(1, true); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.read() }()
	select {
	case err := <-done:
		if want := map[string]int{unavailable: 1}; err != nil || !maps.Equal(c.answers, want) {
			t.Errorf("answers %v, want %v: %v", c.answers, want, err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the connection does not end")
	}
}

func answerWithReset(t *testing.T, listener net.Listener) {
	conn, err := listener.Accept()
	if err != nil {
		return
	}
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		t.Error(err)
	}
	out := bufio.NewWriter(conn) // one write for both frames
	framer := http2.NewFramer(out, conn)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		if data, ok := frame.(*http2.DataFrame); ok && data.StreamEnded() {
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: data.StreamID, BlockFragment: trailers(), EndHeaders: true, EndStream: true})
			_ = framer.WriteRSTStream(data.StreamID, http2.ErrCodeNo)
			_ = out.Flush()
		}
	}
}

func trailers() []byte {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: "grpc-status", Value: "14"})
	return block.Bytes()
}
