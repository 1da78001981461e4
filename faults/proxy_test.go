package faults_test

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tcpProxy forwards TCP connections. It can lose all packets of open connections without closing them, as a failed node or an
// expired NAT entry does.
type tcpProxy struct {
	upstream string
	listener net.Listener
	// delayFirst delays the first connection.
	delayFirst time.Duration

	mu      sync.Mutex
	losing  bool // new connections lose packets, too
	open    map[*tcpPair]struct{}
	opened  int
	working sync.WaitGroup
}

// tcpPair is one connection through the proxy.
type tcpPair struct {
	client, server net.Conn
	first          bool
	lossy          atomic.Bool
}

// newTCPProxy listens on a free loopback port until the test ends.
func newTCPProxy(t *testing.T, upstream string, delayFirst time.Duration) *tcpProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tcpProxy{upstream: upstream, listener: listener, delayFirst: delayFirst, open: map[*tcpPair]struct{}{}}
	p.working.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		for pair := range p.open {
			pair.close()
		}
		p.mu.Unlock()
		p.working.Wait()
	})
	return p
}

func (p *tcpProxy) address() string { return p.listener.Addr().String() }

func (p *tcpProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue
		}
		server, err := net.Dial("tcp", p.upstream)
		if err != nil {
			_ = client.Close()
			continue
		}
		pair := &tcpPair{client: client, server: server}
		p.mu.Lock()
		p.open[pair] = struct{}{}
		p.opened++
		delay := time.Duration(0)
		if pair.first = p.opened == 1; pair.first {
			delay = p.delayFirst
		}
		pair.lossy.Store(p.losing)
		p.mu.Unlock()
		p.working.Go(func() { pair.forward(client, server, delay) })
		p.working.Go(func() { pair.forward(server, client, 0) })
	}
}

// loseOpen loses all further packets of the open connections, and returns their number.
func (p *tcpProxy) loseOpen() (lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pair := range p.open {
		if !pair.lossy.Swap(true) {
			lost++
		}
	}
	return lost
}

// loseAllButFirst loses the packets of all connections but the first, also of new ones.
func (p *tcpProxy) loseAllButFirst() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = true
	for pair := range p.open {
		pair.lossy.Store(!pair.first)
	}
}

// loseNone forwards new connections again.
func (p *tcpProxy) loseNone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = false
}

// forward copies one direction. Of a lossy pair it drops what it reads, and does not close the other side, since a FIN is a packet
// too. What arrives during the delay is forwarded after it, even if the client has closed the connection.
func (p *tcpPair) forward(from, to net.Conn, delay time.Duration) {
	if delay > 0 {
		<-time.After(delay)
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.lossy.Load() {
			_, _ = to.Write(buffer[:n]) // a failure shows on the next read
		}
		if err != nil {
			if !p.lossy.Load() {
				p.close()
			}
			return
		}
	}
}

func (p *tcpPair) close() {
	_ = p.client.Close()
	_ = p.server.Close()
}
