package grpcfront

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// reply is an answer on its way to the proxy.
type reply struct{ extauthz.Answer }

// usualSize is what most replies have room in, in bytes.
const usualSize = 1 << 10

// buffers are for replies: a check leaves so much less to the garbage collector, for whose work
// the checks after it wait.
var buffers = mem.DefaultBufferPool()

// codec leaves checks to question and reply, and all other messages to grpc-go.
type codec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, message any) error {
	asked, ok := message.(*question)
	if !ok {
		return c.CodecV2.Unmarshal(data, message)
	}
	whole := data.MaterializeToBuffer(buffers)
	defer whole.Free()
	return asked.read(whole.ReadOnlyData())
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(message any) (mem.BufferSlice, error) {
	told, ok := message.(*reply)
	if !ok {
		return c.CodecV2.Marshal(message)
	}
	buffer := buffers.Get(usualSize)
	*buffer = write((*buffer)[:0], &told.Answer)
	return mem.BufferSlice{mem.NewBuffer(buffer, buffers)}, nil
}
