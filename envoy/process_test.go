package envoy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a program under test.
type process struct {
	name  string
	pid   *os.Process
	log   string // file with its standard error
	out   string // file with its standard output
	ended chan struct{}
}

func startProcess(dir, name, path string, args ...string) (*process, error) {
	p := &process{
		name: name, ended: make(chan struct{}),
		log: filepath.Join(dir, name+".log"), out: filepath.Join(dir, name+".out"),
	}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	out, err := os.Create(p.out)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, log
	cmd.SysProcAttr = diesWithUs()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = cmd.Process
	go func() {
		_ = cmd.Wait()
		_, _ = log.Close(), out.Close()
		close(p.ended)
	}()
	return p, nil
}

// stop ends the process, frozen or not, and waits for it.
func (p *process) stop() {
	_ = p.pid.Signal(syscall.SIGCONT)
	_ = p.pid.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	_ = p.pid.Kill()
	<-p.ended
}

// until tries until it succeeds or the process ends; a nil process is not asked.
func (p *process) until(try func() error) error {
	const limit = 20 * time.Second
	deadline := time.After(limit)
	var ended chan struct{}
	if p != nil {
		ended = p.ended
	}
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			log, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s ended: %s", p.name, log)
		case <-deadline:
			return fmt.Errorf("not within %v: %w", limit, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// eventually is until for a test.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var nobody *process
	if err := nobody.until(try); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func get200(url string) error {
	response, err := http.Get(url)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

func dialUnix(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return conn.Close()
}

// freePorts returns loopback addresses that are free and differ.
func freePorts(n int) ([]string, error) {
	addresses := make([]string, n)
	for i := range addresses {
		listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = listener.Close() }()
		addresses[i] = listener.Addr().String()
	}
	return addresses, nil
}

func build(dir string, programs ...string) error {
	for i, name := range programs {
		programs[i] = "../cmd/" + name
	}
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, programs...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(programs, " "), err, out)
	}
	return nil
}
