// Package lossyproxy is a proxy for tests of lost connections. It forwards connections, and can lose all further packets of
// connections without closing them, as a failed machine, a network partition or an expired NAT entry does. A connection
// costs two goroutines.
package lossyproxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy forwards the connections of a listener to a server.
type Proxy struct {
	to         net.Addr
	listener   net.Listener
	delayFirst time.Duration
	accepted   atomic.Int64
	forwarded  atomic.Int64 // bytes

	mu      sync.Mutex
	losing  bool // new connections lose packets too
	open    map[*pair]struct{}
	working sync.WaitGroup
}

// pair is one connection through the proxy.
type pair struct {
	client, server net.Conn
	first          bool
	lossy          atomic.Bool
}

// Start listens on a free loopback port.
func Start(to net.Addr) (*Proxy, error) { return Listen("tcp", "127.0.0.1:0", to, 0) }

// Listen listens on an address. What the first connection sends is forwarded after delayFirst, even if the client has closed
// the connection by then.
func Listen(network, address string, to net.Addr, delayFirst time.Duration) (*Proxy, error) {
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	p := &Proxy{to: to, listener: listener, delayFirst: delayFirst, open: map[*pair]struct{}{}}
	p.working.Go(p.accept)
	return p, nil
}

// Addr returns the address that the proxy listens on.
func (p *Proxy) Addr() net.Addr { return p.listener.Addr() }

// Accepted returns the number of connections to the server so far.
func (p *Proxy) Accepted() int64 { return p.accepted.Load() }

// Forwarded returns the number of bytes that were forwarded so far, in both directions.
func (p *Proxy) Forwarded() int64 { return p.forwarded.Load() }

// LoseOpen loses all further packets of the open connections and returns the number of connections. New connections work.
func (p *Proxy) LoseOpen() (lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if !c.lossy.Swap(true) {
			lost++
		}
	}
	return lost
}

// LoseAllButFirst loses the packets of all connections but the first, also of new ones.
func (p *Proxy) LoseAllButFirst() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = true
	for c := range p.open {
		c.lossy.Store(!c.first)
	}
}

// LoseNone forwards new connections again.
func (p *Proxy) LoseNone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losing = false
}

// Close closes the listener and all connections, and waits for their goroutines.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for c := range p.open {
		c.close()
	}
	p.mu.Unlock()
	p.working.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial(p.to.Network(), p.to.String())
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &pair{client: client, server: server, first: p.accepted.Add(1) == 1}
		delay := time.Duration(0)
		if c.first {
			delay = p.delayFirst
		}
		p.mu.Lock()
		c.lossy.Store(p.losing)
		p.open[c] = struct{}{}
		p.mu.Unlock()
		p.working.Go(func() { p.forward(c, client, server, delay) })
		p.working.Go(func() { p.forward(c, server, client, 0) })
	}
}

// forward copies one direction until it ends. It discards what a lossy connection sends, and its end, because a FIN is a
// packet too.
func (p *Proxy) forward(c *pair, from, to net.Conn, delay time.Duration) {
	if delay > 0 {
		<-time.After(delay)
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		lossy := c.lossy.Load()
		if n > 0 && !lossy {
			p.forwarded.Add(int64(n))
			_, _ = to.Write(buffer[:n]) // the next read fails
		}
		if err == nil {
			continue
		}
		if !lossy {
			c.close()
		}
		return
	}
}

func (c *pair) close() {
	_ = c.client.Close()
	_ = c.server.Close()
}
