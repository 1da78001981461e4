package grpcserver

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// usualSize is what most replies have room in, in bytes.
const usualSize = 1 << 10

// buffers are for replies: a check leaves so much less to the garbage collector, for whose work
// the checks after it wait.
var buffers = mem.DefaultBufferPool()

// codec leaves checks to exchange, and all other messages to grpc-go.
type codec struct {
	encoding.CodecV2
	failures *failures
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, message any) error {
	asked, ok := message.(*exchange)
	if !ok {
		return c.CodecV2.Unmarshal(data, message)
	}
	whole := data.MaterializeToBuffer(buffers)
	defer whole.Free()
	return asked.read(whole.ReadOnlyData())
}

// Marshal implements encoding.CodecV2. It is the last thing that is done with an answer before
// grpc-go writes it: what the answer is, is judged here.
func (c codec) Marshal(message any) (mem.BufferSlice, error) {
	decided, ok := message.(*exchange)
	if !ok {
		return c.CodecV2.Marshal(message)
	}
	buffer := buffers.Get(usualSize)
	*buffer = c.answer((*buffer)[:0], decided)
	return mem.BufferSlice{mem.NewBuffer(buffer, buffers)}, nil
}

// answer appends the answer of an exchange; if that panics, a denial.
func (c codec) answer(b []byte, decided *exchange) (answered []byte) {
	defer func() {
		if value := recover(); value != nil {
			c.failures.panicked(value)
			failed := extauthz.Failed()
			answered = write(b[:0], &failed)
		}
	}()
	answer := decided.outcome.Answer()
	return write(b, &answer)
}
