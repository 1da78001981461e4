// Command loadgen is many clients of one sidecar at once, for the flood tests: a
// process of its own, so that whoever measures beside it shares no scheduler with
// it. It reads an Order from its standard input, and counts the answers by reason
// on its standard output, both as JSON.
//
// It writes the frames itself and asks anew as each answer comes. A gRPC client costs more
// than the sidecar does, and gathers what many callers send: on a processor that it shares it
// sends hundreds of checks in one go and then none for 10 ms, which is then what is measured.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const (
	connections = 2
	streams     = 500 // on each connection, of a crowd that keeps no rate
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	var order testbed.Order
	if err := json.NewDecoder(in).Decode(&order); err != nil {
		return err
	}
	c := &crowd{order: order, began: time.Now()}
	socket := (&testbed.Site{Dir: order.Site}).Socket(order.Sidecar)
	var all []*connection
	for range connections {
		conn, err := connect(socket, c.next)
		if err != nil {
			return err
		}
		all = append(all, conn)
	}
	answers, err := c.ask(all)
	return errors.Join(err, json.NewEncoder(out).Encode(answers))
}

// crowd is what is asked.
type crowd struct {
	order testbed.Order
	began time.Time
	sent  atomic.Int64
}

// ask asks on all connections until each has its answers, and adds them up.
func (c *crowd) ask(all []*connection) (map[string]int, error) {
	var reading errgroup.Group
	for _, conn := range all {
		reading.Go(conn.read)
	}
	var failed error
	if c.order.PerSecond > 0 {
		failed = c.evenly(all)
	} else {
		for _, conn := range all {
			failed = errors.Join(failed, conn.allow(streams, true))
		}
	}
	failed = errors.Join(failed, reading.Wait())
	answers := map[string]int{}
	for _, conn := range all {
		for reason, n := range conn.answers {
			answers[reason] += n
		}
	}
	return answers, failed
}

func (c *crowd) evenly(all []*connection) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < c.order.Checks && !c.over(); <-tick.C {
		due := int(time.Since(c.began).Seconds() * float64(c.order.PerSecond))
		// Who has come too late makes it up bit by bit: a lump would be no even rate.
		due = min(due, c.order.Checks, sent+c.order.PerSecond/500+1)
		for i, conn := range all {
			if err := conn.allow((due-sent+i)/len(all), false); err != nil {
				return err
			}
		}
		sent = due
	}
	var errs []error
	for _, conn := range all {
		errs = append(errs, conn.end())
	}
	return errors.Join(errs...)
}

// over tells whether the order's time is.
func (c *crowd) over() bool { return c.order.Lasts > 0 && time.Since(c.began) >= c.order.Lasts }

// next is the message of the next check, nil if there is none. It asks for the one key that all
// ask for, or a random one: some of these are canaries.
func (c *crowd) next() []byte {
	const every = 100
	n := int(c.sent.Add(1)) - 1
	if n >= c.order.Checks || c.over() {
		return nil
	}
	key := credential.Mint(credential.Key)
	switch i := n / every; {
	case c.order.Key != "":
		key = credential.NewSecret(c.order.Key)
	case n%every == 0 && i < len(c.order.Marked):
		key = credential.NewSecret(c.order.Marked[i])
	}
	message, err := proto.Marshal(testbed.Request(key))
	if err != nil {
		panic(err) // of texts that are all ASCII
	}
	return message
}
