package pgtest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Road forwards connections to a server's loopback port. It can swallow what goes over those
// that are open, as a lost machine or a forgotten entry of a NAT does: no end of the
// connection is ever sent, and new connections get through.
type Road struct {
	listener net.Listener
	server   string
	work     sync.WaitGroup
	lanes    sync.Map     // of *lane, by themselves
	made     atomic.Int64 // connections so far
}

// lane is one connection.
type lane struct {
	near, far net.Conn
	frozen    atomic.Bool
}

// Road opens one to the server.
func (s *Server) Road(ctx context.Context) (*Road, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Road{listener: ln, server: s.loopback()}
	r.work.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			r.work.Go(func() { r.forward(near) })
		}
	})
	return r, nil
}

// Port is where it listens.
func (r *Road) Port() int { return r.listener.Addr().(*net.TCPAddr).Port }

// Made is the number of connections so far.
func (r *Road) Made() int64 { return r.made.Load() }

func (r *Road) forward(near net.Conn) {
	far, err := new(net.Dialer).Dial("tcp", r.server)
	if err != nil {
		_ = near.Close()
		return
	}
	l := &lane{near: near, far: far}
	r.made.Add(1)
	r.lanes.Store(l, nil)
	defer r.lanes.Delete(l)
	var both sync.WaitGroup
	both.Go(func() { l.carry(far, near) })
	both.Go(func() { l.carry(near, far) })
	both.Wait()
	_, _ = near.Close(), far.Close()
}

// carry copies until an end; of a frozen lane it swallows all, ends too.
func (l *lane) carry(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if l.frozen.Load() {
			if err != nil {
				return
			}
			continue
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			if tcp, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) {
				_ = tcp.CloseWrite()
			}
			return
		}
	}
}

// Freeze swallows all that is sent over the connections that are open now.
func (r *Road) Freeze() {
	r.lanes.Range(func(key, _ any) bool {
		key.(*lane).frozen.Store(true)
		return true
	})
}

// Close ends it and its connections.
func (r *Road) Close() {
	_ = r.listener.Close()
	r.lanes.Range(func(key, _ any) bool {
		l := key.(*lane)
		_, _ = l.near.Close(), l.far.Close()
		return true
	})
	r.work.Wait()
}
