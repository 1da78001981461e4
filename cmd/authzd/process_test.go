package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/phantomrouter/phantom-authz/pkg/config"
)

// The test binary is authzd itself when the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv("AUTHZD_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// sidecar is an authzd that runs as a process of its own, without a key API.
type sidecar struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	exited chan struct{}
	conn   *grpc.ClientConn
}

// startAuthzd starts authzd with more at the end of its configuration, and waits until it is
// ready.
func startAuthzd(t *testing.T, more string, stderr io.Writer) *sidecar {
	t.Helper()
	dir, err := os.MkdirTemp("", "a") // a short name, because the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	s := &sidecar{t: t, dir: dir, exited: make(chan struct{})}
	// Two listeners: stopping one must not count as the exit of the other.
	text := fmt.Sprintf("listen: {check: ['unix://%s/check.sock', 'unix://%s/second.sock'], admin: 'unix://%s/admin.sock'}\n"+
		"key_api: {url: 'unix://%s/nowhere.sock'}\nstart_wait: 0\ndrain: 5s\n%s", dir, dir, dir, dir, more)
	file := filepath.Join(dir, "authzd.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(self, "-config", file)
	s.cmd.Env = append(os.Environ(), "AUTHZD_TEST_MAIN=yes")
	s.cmd.Stderr = stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.exited) }()
	s.conn, err = grpc.NewClient("unix://"+dir+"/check.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.exited
		_ = s.conn.Close()
		_ = os.RemoveAll(dir)
	})
	s.until(func() error {
		if got := s.ready(); got != "200 ready\n" {
			return errors.New(got)
		}
		return nil
	})
	return s
}

// until tries until it succeeds.
func (s *sidecar) until(try func() error) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal(err)
		}
	}
}

func (s *sidecar) admin(path string) string {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.dir, "admin.sock"))
	}}
	got, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("http://admin" + path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(got.Body)
	return fmt.Sprintf("%d %s%s", got.StatusCode, body, errorText(err))
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s *sidecar) ready() string { return s.admin("/readyz") }

// health returns what grpc.health.v1 answers.
func (s *sidecar) health() string {
	answer, err := healthv1.NewHealthClient(s.conn).Check(s.t.Context(), &healthv1.HealthCheckRequest{})
	return answer.GetStatus().String() + errorText(err)
}

// checks expects an answer to a check, whatever it is.
func (s *sidecar) checks() error {
	_, err := authv3.NewAuthorizationClient(s.conn).Check(s.t.Context(), &authv3.CheckRequest{})
	return err
}

// ends expects the exit with code 0, and returns how long it takes.
func (s *sidecar) ends(sent os.Signal) time.Duration {
	s.t.Helper()
	began := time.Now()
	if sent != nil {
		if err := s.cmd.Process.Signal(sent); err != nil {
			s.t.Fatal(err)
		}
	}
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		s.t.Fatal("the program does not exit")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("exit: %v", s.cmd.ProcessState)
	}
	return time.Since(began)
}

// After SIGTERM nothing asks for more requests, but those that come are answered.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := startAuthzd(t, "drain_delay: 1.5s\n", &log)
	if got := s.health(); got != "SERVING" {
		t.Errorf("health: %s", got)
	}
	began := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.until(func() error {
		if ready, health := s.ready(), s.health(); ready != "503 stopping\n" || health != "NOT_SERVING" {
			return fmt.Errorf("after SIGTERM: %s, %s", ready, health)
		}
		return nil
	})
	if err := s.checks(); err != nil {
		t.Errorf("a check in the delay: %v", err)
	}
	s.ends(nil)
	if took := time.Since(began); took < 1500*time.Millisecond || took > 6*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if !strings.Contains(log.String(), `"drain_delay":"1.5s"`) {
		t.Error(log.String())
	}
}

func TestInterruptHasNoDelay(t *testing.T) {
	t.Parallel()
	s := startAuthzd(t, "drain_delay: 10m\n", nil)
	if took := s.ends(syscall.SIGINT); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

// A reader of the log that goes away, or stops, costs lines and nothing else.
func TestLogReader(t *testing.T) {
	for name, gone := range map[string]bool{"gone": true, "stopped": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, its, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ours.Close() }()
			if !gone { // not even the first line fits
				if err := its.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				for err == nil {
					_, err = its.Write(make([]byte, 1<<10))
				}
			}
			s := startAuthzd(t, "log: {level: debug}\n", its)
			_ = its.Close()
			if gone {
				if err := ours.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for range 100 { // each reload writes a line
				if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				if err := s.checks(); err != nil {
					t.Fatal(err)
				}
			}
			if gone {
				s.until(func() error {
					if !strings.Contains(s.admin("/metrics"), "\nauthzd_log_lines_dropped_total 0\n") {
						return nil
					}
					return errors.New("no line is counted as dropped")
				})
			}
			if took := s.ends(syscall.SIGTERM); took > 5*time.Second {
				t.Errorf("the stop took %v", took)
			}
		})
	}
}

// The max_stale in use is not longer than the one that the key API receives.
func TestMaxStaleIsWholeMilliseconds(t *testing.T) {
	for set, want := range map[time.Duration]time.Duration{
		2500 * time.Millisecond:                      2500 * time.Millisecond,
		1500*time.Millisecond + 999*time.Microsecond: 1500 * time.Millisecond,
		999 * time.Microsecond:                       0,
	} {
		if got := times(config.Cache{MaxStale: config.Duration{Duration: set}}).MaxStale; got != want {
			t.Errorf("%v is %v, want %v", set, got, want)
		}
	}
}
