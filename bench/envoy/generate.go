package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/bench"
)

// load is requests over HTTP/1.1 connections, each of which has one request in flight at most. A separate process of this
// program sends them.
type load struct {
	Address     string // of Envoy, HOST:PORT
	Keys        []string
	Connections int
	Duration    time.Duration
	// PerSecond is an even rate, and a latency counts from the time at which the request was due. 0: each connection sends
	// the next request as soon as the previous one is answered.
	PerSecond int
}

// answers is what a load has measured.
type answers struct {
	Requests int
	Others   int // answers other than 200
	Elapsed  time.Duration
	P50, P99 time.Duration
}

// generate sends the load.
func (l load) generate(ctx context.Context) (a answers, err error) {
	self, err := os.Executable()
	if err != nil {
		return a, err
	}
	text, err := json.Marshal(l)
	if err != nil {
		return a, err
	}
	cmd := exec.CommandContext(ctx, "taskset", "-c", otherProcessor, self, "-generate")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return a, fmt.Errorf("generator: %w", err)
	}
	if err := json.Unmarshal(out, &a); err != nil {
		return a, err
	}
	if a.Others > a.Requests/100 {
		return a, fmt.Errorf("%d of %d answers are not 200: is the machine idle?", a.Others, a.Requests)
	}
	return a, nil
}

// runGenerator sends the load that it reads, and writes the answers.
func runGenerator(in io.Reader, out io.Writer) error {
	var l load
	if err := json.NewDecoder(in).Decode(&l); err != nil {
		return err
	}
	debug.SetGCPercent(-1) // a collection would dominate p99; the garbage of a run is a few MiB
	requests := make([][]byte, len(l.Keys))
	for i, key := range l.Keys {
		requests[i] = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nhost: api.example.com\r\nuser-agent: bench\r\naccept: */*\r\nauthorization: Bearer %s\r\n\r\n", requestPath, key)
	}
	connections := make([]*connection, l.Connections)
	for i := range connections {
		c, err := connect(l.Address, requests, i*len(requests)/l.Connections)
		if err != nil {
			return err
		}
		defer func() { _ = c.conn.Close() }()
		connections[i] = c
	}
	began := time.Now()
	latencies, err := l.send(connections, began)
	if err != nil {
		return err
	}
	sorted := bench.Sort(latencies)
	a := answers{Requests: len(sorted), Elapsed: time.Since(began), P50: sorted.Median(), P99: sorted.Percentile(99)}
	for _, c := range connections {
		a.Others += c.others
	}
	return json.NewEncoder(out).Encode(a)
}

// send sends the requests and returns their latencies.
func (l load) send(connections []*connection, began time.Time) (latencies []time.Duration, err error) {
	var group errgroup.Group
	end := began.Add(l.Duration)
	if l.PerSecond == 0 {
		runtime.GOMAXPROCS(1) // the process has one processor, and more threads would contend for it
		for _, c := range connections {
			group.Go(func() error { return c.sendUntil(end) })
		}
	} else {
		due := make(chan time.Time, l.PerSecond*int(l.Duration/time.Second+1)) // never blocks the pacer
		group.Go(func() error {
			defer close(due)
			return l.pace(due, began, end)
		})
		for _, c := range connections {
			group.Go(func() error { return c.sendDue(due) })
		}
	}
	err = group.Wait()
	for _, c := range connections {
		latencies = append(latencies, c.latencies...)
	}
	return latencies, err
}

// pace sends the times at which requests are due: at even intervals with a random offset each, so that they do not coincide with
// periodic events.
func (l load) pace(due chan<- time.Time, began, end time.Time) error {
	runtime.GOMAXPROCS(4) // one for the pauses, which are system calls, and some for the connections
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	interval := time.Second / time.Duration(l.PerSecond)
	for next := began; next.Before(end); next = next.Add(interval) {
		at := next.Add(rand.N(interval))
		bench.Pause(time.Until(at))
		due <- at
	}
	return nil
}

// connection is an HTTP/1.1 connection that repeats prepared requests.
type connection struct {
	conn      net.Conn
	in        *bufio.Reader
	requests  [][]byte
	next      int // index of the next request
	others    int // answers other than 200
	latencies []time.Duration
}

func connect(address string, requests [][]byte, first int) (*connection, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &connection{conn: conn, in: bufio.NewReader(conn), requests: requests, next: first, latencies: make([]time.Duration, 0, 1<<16)}, nil
}

// sendUntil sends requests until the end.
func (c *connection) sendUntil(end time.Time) error {
	for began := time.Now(); began.Before(end); {
		if err := c.exchange(); err != nil {
			return err
		}
		now := time.Now()
		c.latencies = append(c.latencies, now.Sub(began))
		began = now
	}
	return nil
}

// sendDue sends a request for each time that it receives.
func (c *connection) sendDue(due <-chan time.Time) error {
	for at := range due {
		if err := c.exchange(); err != nil {
			return err
		}
		c.latencies = append(c.latencies, time.Since(at))
	}
	return nil
}

// exchange sends a request and reads its answer.
func (c *connection) exchange() error {
	if _, err := c.conn.Write(c.requests[c.next%len(c.requests)]); err != nil {
		return err
	}
	c.next++
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		c.others++
	}
	body := 0
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == len("\r\n") {
			_, err := c.in.Discard(body)
			return err
		}
		if length, ok := bytes.CutPrefix(line, []byte("content-length: ")); ok {
			if body, err = strconv.Atoi(string(bytes.TrimSpace(length))); err != nil {
				return err
			}
		}
	}
}
