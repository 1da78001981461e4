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

// network carries the messages between the model's sidecars and its key API, over
// real HTTP on pipes in memory: late, lost, twice and in another order than they were
// sent. It outlives every restart of either side.
type network struct {
	keyd   *keyd
	server *http.Server
	conns  chan net.Conn
	closed chan struct{}
	flying sync.WaitGroup // messages on their way

	mu  sync.Mutex
	rng *rand.Rand
}

// weather is what one sidecar's link does to messages.
type weather int

const (
	fine         weather = iota
	slow                 // up to 150 ms each way
	lossy                // a third lost, each way, and some come twice
	cut                  // no connection
	swallowed            // nothing arrives, nothing is refused
	deafened             // all arrives, no answer comes back
	noPolls              // only resolves get through
	noResolves           // only polls do
	latePolls            // polls take nearly as long as they may
	lateResolves         // the answers of resolves do
	delayedPolls         // some polls arrive seconds later, in another order, after the sidecar gave up
	doubledPolls         // polls come twice or three times, seconds later
	intermediary         // half of the requests get wrong answers, some of which the key API has got
	notFound             // polls are answered with 404 on the way
	slowDials            // connections take seconds
	weathers             // how many there are
)

// link is one sidecar's way to the key API.
type link struct {
	*network
	mu      sync.Mutex
	weather weather
	// firstPoll is how long the first poll takes to arrive, as on a TCP connection that loses
	// its first packets. 0: as the weather has it.
	firstPoll time.Duration
	open      map[net.Conn]struct{}
}

// linked is the server's end of a connection of a link.
type linked struct {
	net.Conn
	link *link
}

func (c linked) Close() error {
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
		Handler:           http.HandlerFunc(n.carry),
		ReadHeaderTimeout: time.Hour,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, linkKey{}, c.(linked).link)
		},
	}
	n.flying.Go(func() { _ = n.server.Serve(n) })
	return n
}

var errNoNetwork = errors.New("no way to the key API")

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

// end waits until nothing is on its way any more.
func (n *network) end() {
	close(n.closed)
	_ = n.server.Close()
	n.flying.Wait()
}

func (n *network) link() *link { return &link{network: n, open: make(map[net.Conn]struct{})} }

func (l *link) set(w weather) {
	l.mu.Lock()
	l.weather = w
	var broken []net.Conn
	if w == cut {
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

// dial is the DialTLS of a sidecar's client.
func (l *link) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	l.mu.Lock()
	if l.weather == cut {
		l.mu.Unlock()
		return nil, errNoNetwork
	}
	slow := l.weather == slowDials
	l.mu.Unlock()
	if slow && !l.pause(l.upTo(5*time.Second), ctx.Done()) {
		return nil, errNoNetwork
	}
	l.mu.Lock()
	ours, theirs := net.Pipe()
	l.open[theirs] = struct{}{}
	l.mu.Unlock()
	select {
	case l.conns <- linked{theirs, l}:
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

// wrongAnswers are those of intermediaries: an ingress during a rollout, a captive portal, a
// proxy without its upstream, another service.
var wrongAnswers = []func(http.ResponseWriter){
	wrong(404, "text/plain", "default backend - 404"),
	wrong(200, "application/json", `{"status":"ok"}`),
	wrong(200, "text/html", "<html>log in</html>"),
	wrong(502, "text/html", "<html>bad gateway</html>"),
	wrong(409, "application/json", `{"error":"CONFLICT","message":"m","statusCode":409}`),
	wrong(410, "text/plain", "gone"),
}

func wrong(status int, contentType, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// fate is what becomes of one message and its answer.
type fate struct {
	there, back time.Duration
	lost, mute  bool                      // on the way there, on the way back
	again       []time.Duration           // it arrives once more, so much later
	answer      func(http.ResponseWriter) // of an intermediary; nil: the key API's
	forwarded   bool                      // to the key API, though an intermediary answers
}

func (l *link) fate(path string) fate {
	poll := path == sidecarapi.ChangesPath
	l.mu.Lock()
	w, firstPoll := l.weather, l.firstPoll
	if poll {
		l.firstPoll = 0
	}
	l.mu.Unlock()
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	upTo := func(d time.Duration) time.Duration { return time.Duration(l.rng.Int64N(int64(d))) }
	f := fate{there: upTo(2 * time.Millisecond), back: upTo(2 * time.Millisecond)}
	switch w {
	case fine, weathers, slowDials:
	case slow:
		f.there, f.back = upTo(150*time.Millisecond), upTo(150*time.Millisecond)
	case lossy:
		f.there, f.back = upTo(100*time.Millisecond), upTo(100*time.Millisecond)
		f.lost, f.mute = l.rng.IntN(3) == 0, l.rng.IntN(3) == 0
		if l.rng.IntN(3) == 0 {
			f.again = []time.Duration{upTo(8 * time.Second)}
		}
	case cut, swallowed:
		f.lost = true
	case deafened:
		f.there, f.mute = upTo(500*time.Millisecond), true
	case noPolls:
		f.lost = poll
	case noResolves:
		f.lost = !poll
	case latePolls:
		if poll {
			f.there, f.back = upTo(600*time.Millisecond), upTo(600*time.Millisecond)
		}
	case lateResolves:
		if !poll {
			f.back = upTo(390 * time.Millisecond)
		}
	case delayedPolls:
		if poll && l.rng.IntN(2) == 0 {
			f.there = upTo(8 * time.Second)
		}
	case doubledPolls:
		if poll {
			f.again = []time.Duration{upTo(8 * time.Second), upTo(2 * time.Second)}
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
		f.there = firstPoll
	}
	return f
}

// carry is the network's handling of one request.
func (n *network) carry(w http.ResponseWriter, r *http.Request) {
	l := r.Context().Value(linkKey{}).(*link)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f := l.fate(r.URL.Path)
	answers := make(chan reply, 1)
	n.flying.Go(func() { // whether the sidecar still waits or not
		if !n.pause(f.there, nil) || f.lost {
			return
		}
		take := n.keyd.sidecar
		if r.URL.Path == sidecarapi.ChangesPath {
			take = n.keyd.poll
		}
		if f.answer == nil || f.forwarded {
			answers <- take(r.Context(), r.URL.Path, body)
		} else {
			answers <- reply{}
		}
		for _, later := range f.again {
			n.flying.Go(func() {
				if n.pause(later, nil) {
					take(r.Context(), r.URL.Path, body)
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
		if a.status == 0 || f.mute || !n.pause(f.back, r.Context().Done()) {
			if f.mute {
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

// pause tells whether so much time has passed.
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
