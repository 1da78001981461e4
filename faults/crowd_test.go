package faults_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/faults/running"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// A crowd is many clients at once. They are a process of their own, this test binary
// run anew, so that whoever measures beside them shares no scheduler with them.
type crowd struct {
	t    testing.TB
	cmd  *exec.Cmd
	over chan struct{} // closed when all have been answered
	said []byte
}

// crowdOrder is what the process is told.
type crowdOrder struct {
	Site, Sidecar string
	Key           string   // that all ask for; "": each time a random one
	Checks        int      // in all
	PerSecond     int      // evenly; 0: as fast as they are answered
	Marked        []string // random keys that are canaries, to be among them
}

const (
	crowdVariable    = "FAULTS_CROWD"
	crowdConnections = 2
	crowdStreams     = 1000 // on each connection, of a crowd that keeps no rate
)

// crowd sends a crowd to a sidecar.
func (s *site) crowd(order crowdOrder) *crowd {
	s.t.Helper()
	order.Site = s.Dir
	for range 100 {
		order.Marked = append(order.Marked, s.Unknown().Reveal())
	}
	text := must(json.Marshal(order))(s.t)
	self := must(os.Executable())(s.t)
	c := &crowd{t: s.t, cmd: exec.CommandContext(s.t.Context(), self), over: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), crowdVariable+"="+string(text))
	c.cmd.Stderr = os.Stderr
	go func() {
		defer close(c.over)
		out, err := c.cmd.Output()
		if err != nil {
			c.t.Errorf("the crowd: %v", err)
		}
		c.said = out
	}()
	return c
}

// answers counts the answers by reason, once they are all there.
func (c *crowd) answers() map[string]int {
	c.t.Helper()
	<-c.over
	var counted map[string]int
	if err := json.Unmarshal(c.said, &counted); err != nil {
		c.t.Fatalf("the crowd says %q: %v", c.said, err)
	}
	return counted
}

// runCrowd is the process.
func runCrowd(text string) error {
	c := &clients{answers: map[string]int{}}
	if err := json.Unmarshal([]byte(text), &c.order); err != nil {
		return err
	}
	site := &running.Site{Dir: c.order.Site}
	for range crowdConnections {
		checks, err := site.Checks(c.order.Sidecar)
		if err != nil {
			return err
		}
		c.checks = append(c.checks, checks)
	}
	if c.order.PerSecond > 0 {
		c.evenly()
	} else {
		c.atFullSpeed()
	}
	return json.NewEncoder(os.Stdout).Encode(c.answers)
}

type clients struct {
	order   crowdOrder
	checks  []*running.Checks
	mu      sync.Mutex
	answers map[string]int
}

func (c *clients) atFullSpeed() {
	var next atomic.Int64
	var running sync.WaitGroup
	for range crowdConnections * crowdStreams {
		running.Go(func() {
			for n := int(next.Add(1)); n <= c.order.Checks; n = int(next.Add(1)) {
				c.ask(n)
			}
		})
	}
	running.Wait()
}

func (c *clients) evenly() {
	var running sync.WaitGroup
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for sent := 0; sent < c.order.Checks; <-tick.C {
		due := int(time.Since(began).Seconds() * float64(c.order.PerSecond))
		for ; sent < min(due, c.order.Checks); sent++ {
			running.Go(func() { c.ask(sent) })
		}
	}
	running.Wait()
}

func (c *clients) ask(n int) {
	secret := credential.NewSecret(c.order.Key)
	if secret.Empty() {
		secret = c.random(n)
	}
	got, err := c.checks[n%len(c.checks)].AsEnvoy(context.Background(), secret)
	if err != nil {
		got = unavailable // is what Envoy says then
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[got.Reason]++
}

// random makes a key; some are canaries.
func (c *clients) random(n int) credential.Secret {
	if i, every := n/100, n%100 == 0; every && i < len(c.order.Marked) {
		return credential.NewSecret(c.order.Marked[i])
	}
	return credential.Mint(credential.Key)
}

// crowdOrdered runs the process if this is one.
func crowdOrdered() (code int, ordered bool) {
	text := os.Getenv(crowdVariable)
	if text == "" {
		return 0, false
	}
	if err := runCrowd(text); err != nil {
		_, _ = os.Stderr.WriteString(strconv.Quote(err.Error()) + "\n")
		return 1, true
	}
	return 0, true
}
