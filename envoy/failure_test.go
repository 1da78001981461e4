package envoy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// lost holds all that a client sees while the sidecar cannot answer.
func (f *front) lost(t *testing.T) {
	t.Helper()
	begin := time.Now()
	good := request{path: companion}.with(bearer(f.w.held.chat), webApp)
	unavailable.check(t, f.ask(t, good), corsHeaders...)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the 503 took %v", took)
	}
	good.http2 = true
	unavailable.check(t, f.ask(t, good), corsHeaders...)
	unavailable.check(t, f.ask(t, request{path: "/anything"}))
	_, trailer, err := f.call(t, "/api/v1/chat/Say", f.w.held.chat)
	if s := status.Convert(err); s.Code() != codes.Unavailable {
		t.Errorf("gRPC: %v %q %v", s.Code(), s.Message(), trailer)
	}
	// CORS is Envoy's own part.
	if got := f.ask(t, preflight(companion, webApp)); got.status != 200 {
		t.Errorf("preflight: %d", got.status)
	}
}

func (f *front) works(t *testing.T) {
	t.Helper()
	if got := f.ask(t, request{path: companion}.with(bearer(f.w.held.chat))); got.status != 200 || !got.reached() {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestSidecarKilled(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			w := shared(t)
			socket := "killed-" + version + ".sock"
			first := w.ownAuthzd(t, "killed-"+version, socket, mapping{})
			f := w.ownEnvoy(t, version, envoy.Addresses{Authz: "unix://" + w.file(socket)})
			f.works(t)
			first.kill()
			f.lost(t)
			// The socket that a killed process leaves is no obstacle to the next.
			w.ownAuthzd(t, "killed-"+version+"-again", socket, mapping{})
			f.works(t)
		})
	}
}

// freeze stops a child and waits until all of its threads stand still: only then is its
// parent told, and on a busy machine one of them may answer for a while.
func freeze(t *testing.T, child *os.Process) {
	t.Helper()
	if err := child.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for {
		var state syscall.WaitStatus
		_, err := syscall.Wait4(child.Pid, &state, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || !state.Stopped() {
			t.Fatalf("the process did not stop: %v, %v", state, err)
		}
		return
	}
}

func TestSidecarFrozen(t *testing.T) {
	w := shared(t)
	sidecar := w.ownAuthzd(t, "frozen", "frozen.sock", mapping{})
	f := w.ownEnvoy(t, versions()[0], envoy.Addresses{Authz: "unix://" + w.file("frozen.sock")})
	f.works(t)
	freeze(t, sidecar.pid)
	f.lost(t)
	if err := sidecar.pid.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sidecar answers again", func() error {
		if got := f.ask(t, request{path: companion}.with(bearer(w.held.chat))); got.status != 200 {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
}

// TestKeyAPIDown: nothing can be learned, so the sidecar itself answers 503; what it
// can tell without the key API stays as it is.
func TestKeyAPIDown(t *testing.T) {
	w := shared(t)
	nowhere, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	w.ownAuthzd(t, "no-key-api", "no-key-api.sock", mapping{
		"key_api": mapping{"url": "http://" + nowhere[0], "token_file": "key-api.token"},
	})
	f := w.ownEnvoy(t, versions()[0], envoy.Addresses{Authz: "unix://" + w.file("no-key-api.sock")})
	for _, http2 := range []bool{false, true} {
		chat := request{path: companion, http2: http2}
		unavailable.check(t, f.ask(t, chat.with(bearer(w.held.chat))))
		unavailable.check(t, f.ask(t, request{path: "/api/v1/other", http2: http2}.with(bearer(w.held.chat))))
		noCredential.check(t, f.ask(t, chat))
		malformed.check(t, f.ask(t, chat.with("Authorization: Basic YTpi")))
		keyUnknown.check(t, f.ask(t, chat.with(bearer(w.held.chat[:len(w.held.chat)-1]+flip(w.held.chat)))))
	}
	_, _, err = f.call(t, "/api/v1/chat/Say", w.held.chat)
	if s := status.Convert(err); s.Code() != codes.Unavailable || s.Message() != unavailable.message {
		t.Errorf("gRPC: %v %q", s.Code(), s.Message())
	}
}

// TestTooManyUnknownKeys: a flood of random keys is turned away, a known key is not.
func TestTooManyUnknownKeys(t *testing.T) {
	w := shared(t)
	w.ownAuthzd(t, "flooded", "flooded.sock", mapping{"admission": mapping{"unknown_per_second": 1, "burst": 1}})
	f := w.ownEnvoy(t, versions()[0], envoy.Addresses{Authz: "unix://" + w.file("flooded.sock")})
	f.works(t)
	turnedAway := 0
	for range 10 {
		got := f.ask(t, request{path: companion}.with(bearer(credential.Mint(credential.Key).Reveal())))
		if got.status == 429 {
			rateLimited.check(t, got)
			turnedAway++
		} else {
			keyUnknown.check(t, got)
		}
	}
	if turnedAway == 0 {
		t.Error("none of 10 unknown keys was turned away at 1 a second")
	}
	f.works(t)
}

// TestRestartIsBridged: Envoy tries again while a restarting sidecar has no socket,
// for as long as a check may take.
func TestRestartIsBridged(t *testing.T) {
	w := shared(t)
	socket := w.file("bridged.sock")
	stop := serveChecks(t, socket, allowAll)
	f := w.ownEnvoy(t, versions()[0], envoy.Addresses{Authz: "unix://" + socket})
	// The moment is short, and this machine may be busy: so some tries.
	for range 5 {
		stop()
		before := f.failedConnects(t)
		answers := make(chan int, 1)
		go func() {
			got, err := f.send(t.Context(), request{path: companion})
			if err != nil {
				got.status = -1
			}
			answers <- got.status
		}()
		eventually(t, "Envoy finds no sidecar", func() error {
			if f.failedConnects(t) == before {
				return errors.New("not yet")
			}
			return nil
		})
		stop = serveChecks(t, socket, allowAll)
		if <-answers == 200 {
			return
		}
	}
	t.Error("no request outlived a restart of the sidecar")
}

// failedConnects is how often Envoy has not reached the sidecar so far.
func (f *front) failedConnects(t *testing.T) string {
	t.Helper()
	response, err := http.Get("http://" + f.admin + "/stats?filter=cluster.authz.upstream_cx_connect_fail")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestTakeover: a new sidecar takes the old one's socket while requests go on, and
// none fails.
func TestTakeover(t *testing.T) {
	const (
		interval = 2 * time.Millisecond // 500 requests a second
		total    = 1500
	)
	w := shared(t)
	old := w.ownAuthzd(t, "takeover-old", "takeover.sock", mapping{})
	f := w.ownEnvoy(t, versions()[0], envoy.Addresses{Authz: "unix://" + w.file("takeover.sock")})
	f.works(t)

	takeover := make(chan error, 1)
	load := f.load(total, interval, bearer(w.held.chat), func() {
		go func() {
			successor, err := w.startAuthzd("takeover-new", "takeover.sock", mapping{})
			if err == nil {
				t.Cleanup(successor.stop)
				old.stop()
			}
			takeover <- err
		}()
	})
	if err := <-takeover; err != nil {
		t.Fatal(err)
	}
	for answer, n := range load {
		if answer != "200 OK" {
			t.Errorf("%d of %d requests: %s", n, total, answer)
		}
	}
	f.works(t) // by the successor: the old one is gone
	if err := dialUnix(w.file("takeover.sock")); err != nil {
		t.Errorf("the socket: %v", err)
	}
}

// load makes requests at an even rate and counts the answers; after a third of them
// it calls the function.
func (f *front) load(total int, interval time.Duration, authorization string, meanwhile func()) map[string]int {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	ask := func() string {
		r, err := http.NewRequest(http.MethodGet, "http://"+f.addr+companion, nil)
		if err != nil {
			return err.Error()
		}
		r.Header.Set("Authorization", authorization[len("Authorization: "):])
		response, err := client.Do(r)
		if err != nil {
			return err.Error()
		}
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil {
			return err.Error()
		}
		return response.Status
	}
	var mu sync.Mutex
	var asked sync.WaitGroup
	answers := map[string]int{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for i := range total {
		if i == total/3 {
			meanwhile()
		}
		asked.Go(func() {
			answer := ask()
			mu.Lock()
			defer mu.Unlock()
			answers[answer]++
		})
		<-tick.C
	}
	asked.Wait()
	return answers
}
