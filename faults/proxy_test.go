package faults_test

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tcpProxy passes TCP connections on to another address. It can lose all packets of the
// connections that are open, as a lost node or NAT entry does: nothing is closed or reset.
type tcpProxy struct {
	upstream string
	listener net.Listener
	// delayFirst holds back everything on the first connection for that long.
	delayFirst time.Duration

	mu      sync.Mutex
	losing  bool // connections that are opened now are dead, too
	open    map[*tcpPair]struct{}
	opened  int
	working sync.WaitGroup
}

// tcpPair is one connection through the proxy.
type tcpPair struct {
	client, server net.Conn
	first          bool
	dead           atomic.Bool
}

// newTCPProxy listens on a free port of the loopback address until the test ends.
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
		pair.dead.Store(p.losing)
		p.mu.Unlock()
		p.working.Go(func() { pair.pass(client, server, delay) })
		p.working.Go(func() { pair.pass(server, client, 0) })
	}
}

// loseOpen loses all further packets of the connections that are open now. It returns how
// many these are.
func (p *tcpProxy) loseOpen() (lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pair := range p.open {
		if !pair.dead.Swap(true) {
			lost++
		}
	}
	return lost
}

// loseAllButFirst loses the packets of every connection but the first, and of those that are
// opened later.
func (p *tcpProxy) loseAllButFirst() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = true
	for pair := range p.open {
		pair.dead.Store(!pair.first)
	}
}

// loseNone passes on what connections that are opened from now on send.
func (p *tcpProxy) loseNone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = false
}

// pass copies one direction. Of a dead pair it reads on and drops what it reads; it closes
// the other side of a live pair only, since the end of a connection is a packet too. What
// arrives during the delay is passed on after it, even if the client has given up.
func (p *tcpPair) pass(from, to net.Conn, delay time.Duration) {
	if delay > 0 {
		timer := time.NewTimer(delay)
		<-timer.C
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.dead.Load() {
			_, _ = to.Write(buffer[:n]) // a failure shows on the next read
		}
		if err != nil {
			if !p.dead.Load() {
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
