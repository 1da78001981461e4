package envoy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// expectUnavailable checks what clients receive while the sidecar does not answer.
func (p *proxy) expectUnavailable(t *testing.T) {
	t.Helper()
	begin := time.Now()
	good := request{path: companion}.with(bearer(p.env.creds.Chat), webApp)
	unavailable.check(t, p.do(t, good), corsHeaders...)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the 503 took %v", took)
	}
	good.http2 = true
	unavailable.check(t, p.do(t, good), corsHeaders...)
	unavailable.check(t, p.do(t, request{path: "/anything"}))
	_, trailer, err := p.call(t, "/api/v1/chat/Say", p.env.creds.Chat)
	if s := status.Convert(err); s.Code() != codes.Unavailable {
		t.Errorf("gRPC: %v %q %v", s.Code(), s.Message(), trailer)
	}
	// Envoy answers preflights itself.
	if got := p.do(t, preflight(companion, webApp)); got.status != 200 {
		t.Errorf("preflight: %d", got.status)
	}
}

func (p *proxy) expectAllowed(t *testing.T) {
	t.Helper()
	if got := p.do(t, request{path: companion}.with(bearer(p.env.creds.Chat))); got.status != 200 || !got.reached() {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestSidecarKilled(t *testing.T) {
	forEachInParallel(t, func(t *testing.T, env *environment, s setup) {
		name := unique("killed")
		first := env.ownAuthzd(t, name, nil)
		p := env.ownEnvoy(t, s, envoy.Addresses{Authz: env.socket(name)})
		p.expectAllowed(t)
		first.Kill()
		p.expectUnavailable(t)
		env.ownAuthzd(t, name, nil) // replaces the socket of the killed process
		p.expectAllowed(t)
	})
}

func TestSidecarFrozen(t *testing.T) {
	env := shared(t)
	sidecar := env.ownAuthzd(t, "frozen", nil)
	p := env.ownEnvoy(t, setupsOf(t)[0], envoy.Addresses{Authz: env.socket("frozen")})
	p.expectAllowed(t)
	if err := sidecar.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.expectUnavailable(t)
	if err := sidecar.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sidecar answers again", func() error {
		if got := p.do(t, request{path: companion}.with(bearer(env.creds.Chat))); got.status != 200 {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
}

// TestKeyAPIDown: the answer is 503, except for requests that are denied without the key API.
func TestKeyAPIDown(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownChecks(t, s, envoy.Addresses{}, env.withoutKeyAPI())
		for _, http2 := range []bool{false, true} {
			chat := request{path: companion, http2: http2}
			unavailable.check(t, p.do(t, chat.with(bearer(env.creds.Chat))))
			unavailable.check(t, p.do(t, request{path: "/api/v1/other", http2: http2}.with(bearer(env.creds.Chat))))
			noCredential.check(t, p.do(t, chat))
			malformed.check(t, p.do(t, chat.with("Authorization: Basic YTpi")))
			keyUnknown.check(t, p.do(t, chat.with(bearer(env.creds.Chat[:len(env.creds.Chat)-1]+flip(env.creds.Chat)))))
		}
		_, _, err := p.call(t, "/api/v1/chat/Say", env.creds.Chat)
		if s := status.Convert(err); s.Code() != codes.Unavailable || s.Message() != unavailable.message {
			t.Errorf("gRPC: %v %q", s.Code(), s.Message())
		}
	})
}

func TestUnknownKeysAreRateLimited(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownChecks(t, s, envoy.Addresses{}, testbed.Config{"admission": testbed.Config{"unknown_per_second": 1, "burst": 1}})
		p.expectAllowed(t)
		limited := 0
		for range 10 {
			got := p.do(t, request{path: companion}.with(bearer(credential.Mint(credential.Key).Reveal())))
			if got.status == 429 {
				rateLimited.check(t, got)
				limited++
			} else {
				keyUnknown.check(t, got)
			}
		}
		if limited == 0 {
			t.Error("none of 10 unknown keys was rate limited at 1 per second")
		}
		p.expectAllowed(t)
	})
}

// TestRestartCostsNoRequest: Envoy retries while a restarting sidecar has no socket, within the check's timeout.
func TestRestartCostsNoRequest(t *testing.T) {
	env := shared(t)
	socket := env.Socket("restarted")
	_, stop := serveChecks(t, "unix", socket, allowAll)
	p := env.ownEnvoy(t, setupsOf(t)[0], envoy.Addresses{Authz: "unix://" + socket})
	// The timeout is short and the machine may be busy, so there are several attempts.
	for range 5 {
		stop()
		before := p.failedConnects(t)
		answers := make(chan int, 1)
		go func() {
			got, err := p.send(t.Context(), request{path: companion})
			if err != nil {
				got.status = -1
			}
			answers <- got.status
		}()
		eventually(t, "a failed connection", func() error {
			if bytes.Equal(p.failedConnects(t), before) {
				return errors.New("none")
			}
			return nil
		})
		_, stop = serveChecks(t, "unix", socket, allowAll)
		if <-answers == 200 {
			return
		}
	}
	t.Error("every request failed during a restart of the sidecar")
}

// failedConnects returns Envoy's counter of failed connections to the sidecar.
func (p *proxy) failedConnects(t *testing.T) []byte {
	t.Helper()
	return p.adminPage(t, "/stats?filter=cluster.authz.upstream_cx_connect_fail")
}

// TestTakeoverCostsNoRequest: a new sidecar takes the socket of the old one while requests are sent.
func TestTakeoverCostsNoRequest(t *testing.T) {
	const (
		interval = 2 * time.Millisecond // 500 requests per second
		total    = 1500
	)
	env := shared(t)
	old := env.ownAuthzd(t, "takeover", nil)
	p := env.ownEnvoy(t, setupsOf(t)[0], envoy.Addresses{Authz: env.socket("takeover")})
	p.expectAllowed(t)

	takeover := make(chan error, 1)
	answers := p.load(total, interval, bearer(env.creds.Chat), func() {
		go func() {
			successor, err := env.startAuthzd("takeover", nil)
			if err == nil {
				t.Cleanup(func() { successor.Shutdown(testbed.Patience) })
				_, err = old.Stop(syscall.SIGTERM)
			}
			takeover <- err
		}()
	})
	if err := <-takeover; err != nil {
		t.Fatal(err)
	}
	for answer, n := range answers {
		if answer != "200 OK" {
			t.Errorf("%d of %d requests: %s", n, total, answer)
		}
	}
	p.expectAllowed(t) // by the successor
	if err := dialUnix(env.Socket("takeover")); err != nil {
		t.Errorf("the socket: %v", err)
	}
}

// load sends requests at an even rate and counts the answers. After a third of them it calls meanwhile.
func (p *proxy) load(total int, interval time.Duration, authorization string, meanwhile func()) map[string]int {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	send := func() string {
		r, err := http.NewRequest(http.MethodGet, "http://"+p.addr+companion, nil)
		if err != nil {
			return err.Error()
		}
		r.Header.Set("Authorization", strings.TrimPrefix(authorization, "Authorization: "))
		response, err := client.Do(r)
		if err != nil {
			return err.Error()
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			return err.Error()
		}
		return response.Status
	}
	var mu sync.Mutex
	var sending sync.WaitGroup
	answers := map[string]int{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for i := range total {
		if i == total/3 {
			meanwhile()
		}
		sending.Go(func() {
			answer := send()
			mu.Lock()
			defer mu.Unlock()
			answers[answer]++
		})
		<-tick.C
	}
	sending.Wait()
	return answers
}
