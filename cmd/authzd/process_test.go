package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// The test binary runs as authzd if the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv("AUTHZD_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// authzd is a running authzd without a key API.
type authzd struct {
	*testbed.Process
	t      *testing.T
	checks *testbed.CheckClient
	health healthv1.HealthClient
}

// startAuthzd starts authzd with more at the end of its configuration, and waits until it is ready. Its log goes to stderr, or
// to its file if stderr is nil.
func startAuthzd(t *testing.T, more string, stderr *os.File) *authzd {
	t.Helper()
	dir, err := os.MkdirTemp("", "a") // a short name, because the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	admin, err := testbed.FreeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	// Two listeners: stopping one must not count as the exit of the other.
	text := fmt.Sprintf("listen: {check: ['unix://%s/check.sock', 'unix://%s/second.sock'], admin: 'tcp://%s'}\n"+
		"key_api: {url: 'unix://%s/missing.sock'}\nstart_wait: 0\ndrain: 5s\n%s", dir, dir, admin[0], dir, more)
	file := filepath.Join(dir, "authzd.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-config", file)
	cmd.Env = append(os.Environ(), "AUTHZD_TEST_MAIN=yes")
	if stderr != nil {
		cmd.Stderr = stderr
	}
	p, err := testbed.Start(dir, "authzd", cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	p.Addresses["listen.admin"] = admin[0]
	checks, err := testbed.NewCheckClient(dir + "/check.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(checks.Close)
	conn, err := grpc.NewClient("unix://"+dir+"/check.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s := &authzd{Process: p, t: t, checks: checks, health: healthv1.NewHealthClient(conn)}
	s.until(func() error { return testbed.Probe(t.Context(), p.Admin()+"/readyz") })
	return s
}

// until waits until try succeeds.
func (s *authzd) until(try func() error) {
	s.t.Helper()
	if err := testbed.Until(s.t.Context(), try); err != nil {
		s.t.Fatal(err)
	}
}

// serving returns the status of grpc.health.v1.
func (s *authzd) serving() string {
	answer, err := s.health.Check(s.t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		return err.Error()
	}
	return answer.GetStatus().String()
}

// check sends a check, which must be answered.
func (s *authzd) check() {
	s.t.Helper()
	if _, err := s.checks.Check(s.t.Context(), credential.Secret{}); err != nil {
		s.t.Errorf("check: %v", err)
	}
}

// stops sends the signal, expects exit code 0, and returns how long that took.
func (s *authzd) stops(sent os.Signal) time.Duration {
	s.t.Helper()
	began := time.Now()
	if code, err := s.Stop(sent); code != 0 || err != nil {
		s.t.Errorf("exit code %d, %v", code, err)
	}
	return time.Since(began)
}

// During drain_delay the sidecar is unready and still answers checks.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	s := startAuthzd(t, "drain_delay: 1.5s\n", nil)
	if got := s.serving(); got != "SERVING" {
		t.Errorf("health: %s", got)
	}
	began := time.Now()
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.until(func() error {
		ready, err := testbed.Get(t.Context(), s.Admin()+"/readyz")
		if health := s.serving(); err != nil || string(ready) != "stopping\n" || health != "NOT_SERVING" {
			return fmt.Errorf("after SIGTERM: %q, %s, %w", ready, health, err)
		}
		return nil
	})
	s.check()
	if code, err := s.Wait(); code != 0 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	if took := time.Since(began); took < 1500*time.Millisecond || took > 6*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if !strings.Contains(s.Output(), `"drain_delay":"1.5s"`) {
		t.Error(s.Output())
	}
}

func TestInterruptSkipsDrainDelay(t *testing.T) {
	t.Parallel()
	s := startAuthzd(t, "drain_delay: 10m\n", nil)
	if took := s.stops(syscall.SIGINT); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

// A log reader that goes away or does not read costs only log lines.
func TestLogReader(t *testing.T) {
	for name, gone := range map[string]bool{"gone": true, "not reading": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = reader.Close() }()
			if !gone { // fill the pipe
				if err := writer.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				for err == nil {
					_, err = writer.Write(make([]byte, 1<<10))
				}
			}
			s := startAuthzd(t, "log: {level: debug}\n", writer)
			_ = writer.Close()
			if gone {
				if err := reader.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for range 100 { // each reload writes a line
				if err := s.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				s.check()
			}
			if gone {
				s.until(func() error {
					dropped, err := s.Metric(t.Context(), "phantom_authz_log_lines_dropped_total")
					if err == nil && dropped == 0 {
						err = errors.New("no dropped lines")
					}
					return err
				})
			}
			if took := s.stops(syscall.SIGTERM); took > 5*time.Second {
				t.Errorf("the stop took %v", took)
			}
		})
	}
}
