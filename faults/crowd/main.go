// Command crowd is many clients of one sidecar at once, for the flood tests: a
// process of its own, so that whoever measures beside it shares no scheduler with
// it. It reads an Order from its standard input, and counts the answers by reason
// on its standard output, both as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantomrouter/phantom-authz/faults/running"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const (
	connections = 2
	streams     = 500 // on each connection, of a crowd that keeps no rate
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "crowd:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	c := &crowd{answers: map[string]int{}}
	if err := json.NewDecoder(in).Decode(&c.order); err != nil {
		return err
	}
	site := &running.Site{Dir: c.order.Site}
	for range connections {
		checks, err := site.Checks(c.order.Sidecar)
		if err != nil {
			return err
		}
		defer checks.Close()
		c.checks = append(c.checks, checks)
	}
	c.began = time.Now()
	if c.order.PerSecond > 0 {
		c.evenly()
	} else {
		c.atFullSpeed()
	}
	return json.NewEncoder(out).Encode(c.answers)
}

type crowd struct {
	order   running.Order
	began   time.Time
	checks  []*running.Checks
	mu      sync.Mutex
	answers map[string]int
}

func (c *crowd) atFullSpeed() {
	var next atomic.Int64
	var asking sync.WaitGroup
	for range connections * streams {
		asking.Go(func() {
			for n := int(next.Add(1)); n <= c.order.Checks && !c.over(); n = int(next.Add(1)) {
				c.ask(n)
			}
		})
	}
	asking.Wait()
}

func (c *crowd) evenly() {
	var asking sync.WaitGroup
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < c.order.Checks && !c.over(); <-tick.C {
		due := int(time.Since(c.began).Seconds() * float64(c.order.PerSecond))
		// Who has come too late makes it up bit by bit: a lump would be no even rate.
		due = min(due, c.order.Checks, sent+c.order.PerSecond/500+1)
		for ; sent < due; sent++ {
			n := sent
			asking.Go(func() { c.ask(n) })
		}
	}
	asking.Wait()
}

// over tells whether the order's time is.
func (c *crowd) over() bool { return c.order.Lasts > 0 && time.Since(c.began) >= c.order.Lasts }

// ask asks as Envoy does, and answers as it does when the sidecar does not.
func (c *crowd) ask(n int) {
	reason := "unavailable"
	if got, err := c.checks[n%len(c.checks)].AsEnvoy(context.Background(), c.key(n)); err == nil {
		reason = got.Reason
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[reason]++
}

// key is the one that all ask for, or a random one: some of these are canaries.
func (c *crowd) key(n int) credential.Secret {
	const every = 100
	switch i := n / every; {
	case c.order.Key != "":
		return credential.NewSecret(c.order.Key)
	case n%every == 0 && i < len(c.order.Marked):
		return credential.NewSecret(c.order.Marked[i])
	}
	return credential.Mint(credential.Key)
}
