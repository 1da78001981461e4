package pgtest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Proxy forwards connections to a server's loopback port. It can freeze those that are open: from then on it discards what
// they send, as if a machine were lost or a NAT had dropped them, and new connections work.
type Proxy struct {
	listener net.Listener
	server   string
	work     sync.WaitGroup
	open     sync.Map     // *proxied to nil
	made     atomic.Int64 // connections so far
}

// proxied is one connection.
type proxied struct {
	client, server net.Conn
	frozen         atomic.Bool
}

// Proxy starts a proxy to the server.
func (s *Server) Proxy() (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: ln, server: s.loopback()}
	p.work.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.forward(client) })
		}
	})
	return p, nil
}

// Port is the port that it listens on.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// Made is the number of connections so far.
func (p *Proxy) Made() int64 { return p.made.Load() }

func (p *Proxy) forward(client net.Conn) {
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	c := &proxied{client: client, server: server}
	p.made.Add(1)
	p.open.Store(c, nil)
	defer p.open.Delete(c)
	var both sync.WaitGroup
	both.Go(func() { c.copy(server, client) })
	both.Go(func() { c.copy(client, server) })
	both.Wait()
	c.close()
}

func (c *proxied) close() { _, _ = c.client.Close(), c.server.Close() }

// copy copies until one side ends. It discards everything of a frozen connection, also its end.
func (c *proxied) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if c.frozen.Load() {
			n = 0
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err == nil {
			continue
		}
		if tcp, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) && !c.frozen.Load() {
			_ = tcp.CloseWrite()
		}
		return
	}
}

// Freeze freezes the connections that are open now.
func (p *Proxy) Freeze() {
	p.open.Range(func(c, _ any) bool {
		c.(*proxied).frozen.Store(true)
		return true
	})
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.open.Range(func(c, _ any) bool {
		c.(*proxied).close()
		return true
	})
	p.work.Wait()
}
