package keycache_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// network carries the messages between the model's sidecars and its key API, over real HTTP on pipes
// in memory. It delays, loses, duplicates and reorders them. It outlives restarts of both sides.
type network struct {
	keyd     *keyd
	server   *http.Server
	conns    chan net.Conn
	closed   chan struct{}
	inFlight sync.WaitGroup // messages

	mu  sync.Mutex
	rng *rand.Rand
}

// condition is the state of a sidecar's link.
type condition int

const (
	normal       condition = iota
	slow                   // up to 150 ms in each direction
	lossy                  // a third is lost in each direction, and some arrive twice
	disconnected           // connections are closed and refused
	blackholed             // messages are lost without an error
	noAnswers              // all answers are lost
	noPolls                // polls are lost
	noResolves             // resolves are lost
	latePolls              // polls take nearly until their timeout
	lateResolves           // resolves are answered nearly at their timeout
	delayedPolls           // some polls arrive seconds later and in another order, after their timeout
	doubledPolls           // polls arrive two or three times, seconds apart
	intermediary           // half of the requests get wrong answers; the key API receives some of these
	notFound               // an intermediary answers polls with 404
	slowDials              // connections take seconds
	conditions             // number of conditions
)

// link is a sidecar's connection to the network.
type link struct {
	*network
	mu        sync.Mutex
	condition condition
	// firstPoll delays the first poll, as a TCP connection does that loses its first packets. 0: as the
	// condition says.
	firstPoll time.Duration
	open      map[net.Conn]struct{}
}

// serverConn is the server's end of a link's connection.
type serverConn struct {
	net.Conn
	link *link
}

func (c serverConn) Close() error {
	c.link.mu.Lock()
	delete(c.link.open, c.Conn)
	c.link.mu.Unlock()
	return c.Conn.Close()
}

type linkKey struct{}

func newNetwork(k *keyd, seed uint64) *network {
	n := &network{
		keyd: k, conns: make(chan net.Conn), closed: make(chan struct{}),
		rng: rand.New(rand.NewPCG(seed, 1)),
	}
	n.server = &http.Server{
		Handler:           http.HandlerFunc(n.handle),
		ReadHeaderTimeout: time.Hour,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, linkKey{}, c.(serverConn).link)
		},
	}
	n.inFlight.Go(func() { _ = n.server.Serve(n) })
	return n
}

var errNoNetwork = errors.New("the network is unreachable")

// Accept implements net.Listener.
func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (n *network) Close() error { return nil }

// Addr implements net.Listener.
func (n *network) Addr() net.Addr { return &net.UnixAddr{Name: "model", Net: "unix"} }

// shutdown ends the network and waits until no message is in flight.
func (n *network) shutdown() {
	close(n.closed)
	_ = n.server.Close()
	n.inFlight.Wait()
}

func (n *network) link() *link { return &link{network: n, open: make(map[net.Conn]struct{})} }

func (l *link) set(w condition) {
	l.mu.Lock()
	l.condition = w
	var broken []net.Conn
	if w == disconnected {
		for c := range l.open {
			broken = append(broken, c)
		}
		clear(l.open)
	}
	l.mu.Unlock()
	for _, c := range broken {
		_ = c.Close()
	}
}

// dial implements DialTLS for a sidecar's client.
func (l *link) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	l.mu.Lock()
	if l.condition == disconnected {
		l.mu.Unlock()
		return nil, errNoNetwork
	}
	slow := l.condition == slowDials
	l.mu.Unlock()
	if slow && !l.pause(l.upTo(5*time.Second), ctx.Done()) {
		return nil, errNoNetwork
	}
	l.mu.Lock()
	ours, theirs := net.Pipe()
	l.open[theirs] = struct{}{}
	l.mu.Unlock()
	select {
	case l.conns <- serverConn{theirs, l}:
		return ours, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	return nil, errNoNetwork
}

func (n *network) upTo(d time.Duration) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Duration(n.rng.Int64N(int64(d)))
}

// wrongAnswers are answers of intermediaries: an ingress during a rollout, a captive portal, a proxy
// without its upstream, another service.
var wrongAnswers = []func(http.ResponseWriter){
	wrongAnswer(404, "text/plain", "default backend - 404"),
	wrongAnswer(200, "application/json", `{"status":"ok"}`),
	wrongAnswer(200, "text/html", "<html>log in</html>"),
	wrongAnswer(502, "text/html", "<html>bad gateway</html>"),
	wrongAnswer(409, "application/json", `{"error":"CONFLICT","message":"m","statusCode":409}`),
	wrongAnswer(410, "text/plain", "gone"),
}

func wrongAnswer(status int, contentType, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// delivery describes the transfer of a message and its answer.
type delivery struct {
	sendDelay, replyDelay time.Duration
	lost, replyLost       bool                      // the request, the answer
	duplicates            []time.Duration           // the request arrives again after these times
	answer                func(http.ResponseWriter) // an intermediary's; nil: the key API's
	forwarded             bool                      // the key API receives it though an intermediary answers
}

func (l *link) delivery(path string) delivery {
	poll := path == sidecarapi.ChangesPath
	l.mu.Lock()
	w, firstPoll := l.condition, l.firstPoll
	if poll {
		l.firstPoll = 0
	}
	l.mu.Unlock()
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	upTo := func(d time.Duration) time.Duration { return time.Duration(l.rng.Int64N(int64(d))) }
	f := delivery{sendDelay: upTo(2 * time.Millisecond), replyDelay: upTo(2 * time.Millisecond)}
	switch w {
	case normal, conditions, slowDials:
	case slow:
		f.sendDelay, f.replyDelay = upTo(150*time.Millisecond), upTo(150*time.Millisecond)
	case lossy:
		f.sendDelay, f.replyDelay = upTo(100*time.Millisecond), upTo(100*time.Millisecond)
		f.lost, f.replyLost = l.rng.IntN(3) == 0, l.rng.IntN(3) == 0
		if l.rng.IntN(3) == 0 {
			f.duplicates = []time.Duration{upTo(8 * time.Second)}
		}
	case disconnected, blackholed:
		f.lost = true
	case noAnswers:
		f.sendDelay, f.replyLost = upTo(500*time.Millisecond), true
	case noPolls:
		f.lost = poll
	case noResolves:
		f.lost = !poll
	case latePolls:
		if poll {
			f.sendDelay, f.replyDelay = upTo(600*time.Millisecond), upTo(600*time.Millisecond)
		}
	case lateResolves:
		if !poll {
			f.replyDelay = upTo(390 * time.Millisecond)
		}
	case delayedPolls:
		if poll && l.rng.IntN(2) == 0 {
			f.sendDelay = upTo(8 * time.Second)
		}
	case doubledPolls:
		if poll {
			f.duplicates = []time.Duration{upTo(8 * time.Second), upTo(2 * time.Second)}
		}
	case intermediary:
		if l.rng.IntN(2) == 0 {
			f.answer, f.forwarded = wrongAnswers[l.rng.IntN(len(wrongAnswers))], l.rng.IntN(2) == 0
		}
	case notFound:
		if poll {
			f.answer = wrongAnswers[0]
		}
	}
	if poll && firstPoll > 0 {
		f.sendDelay = firstPoll
	}
	return f
}

// handle carries one request.
func (n *network) handle(w http.ResponseWriter, r *http.Request) {
	l := r.Context().Value(linkKey{}).(*link)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f := l.delivery(r.URL.Path)
	answers := make(chan reply, 1)
	n.inFlight.Go(func() { // even if the sidecar does not wait any longer
		if !n.pause(f.sendDelay, nil) || f.lost {
			return
		}
		send := n.keyd.sidecar
		if r.URL.Path == sidecarapi.ChangesPath {
			send = n.keyd.poll
		}
		if f.answer == nil || f.forwarded {
			answers <- send(r.Context(), r.URL.Path, body)
		} else {
			answers <- reply{}
		}
		for _, later := range f.duplicates {
			n.inFlight.Go(func() {
				if n.pause(later, nil) {
					send(r.Context(), r.URL.Path, body)
				}
			})
		}
	})
	select {
	case a := <-answers:
		if f.answer != nil {
			f.answer(w)
			return
		}
		if a.status == 0 || f.replyLost || !n.pause(f.replyDelay, r.Context().Done()) {
			if f.replyLost {
				<-r.Context().Done()
			}
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

// pause waits, and reports whether the whole time has passed.
func (n *network) pause(d time.Duration, gone <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-gone:
	case <-n.closed:
	}
	return false
}
