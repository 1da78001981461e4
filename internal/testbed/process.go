package testbed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Process is a program that was started. Its log is a file.
type Process struct {
	Name  string
	Log   string // file with its standard error
	Admin string // http://HOST:PORT of its admin listener
	// Addresses are the program's listeners by the name of their configuration field.
	Addresses map[string]string

	cmd   *exec.Cmd
	ended chan struct{}
}

// launch starts a program and waits until it says that it has started.
func (s *Site) launch(ctx context.Context, program, name string, config map[string]any) (*Process, error) {
	file, err := s.write(name, config)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.launched++
	p := &Process{Name: fmt.Sprintf("%s.%d", name, s.launched), ended: make(chan struct{})}
	s.mu.Unlock()
	p.Log = filepath.Join(s.Dir, p.Name+".log")
	log, err := os.Create(p.Log)
	if err != nil {
		return nil, err
	}
	p.cmd = s.command(context.Background(), filepath.Join(s.bin, program), "-config", file) // it ends by its signals alone
	p.cmd.Stderr, p.cmd.Stdout = log, log
	if err := p.cmd.Start(); err != nil {
		_ = log.Close()
		return nil, err
	}
	s.mu.Lock()
	s.processes = append(s.processes, p)
	s.mu.Unlock()
	go func() {
		_ = p.cmd.Wait() // its exit code is asked of the process's state
		_ = log.Close()
		close(p.ended)
	}()
	return p, p.until(ctx, p.started)
}

// command is a program's, to be started through what the site says.
func (s *Site) command(ctx context.Context, args ...string) *exec.Cmd {
	args = slices.Concat(s.Through, args)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = attributes()
	return cmd
}

// started succeeds once the log says so.
func (p *Process) started() error {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err
	}
	p.Addresses = map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var line struct{ Msg, Field, Address string }
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue // being written
		}
		switch line.Msg {
		case "listening":
			p.Addresses[line.Field] = line.Address
			if line.Field == "listen.admin" {
				p.Admin = "http://" + line.Address
			}
		case "started":
			return nil
		}
	}
	return fmt.Errorf("%s has not started", p.Name)
}

// until tries until it succeeds, the process ends or ctx does.
func (p *Process) until(ctx context.Context, try func() error) error {
	over, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.ended:
			cancel()
		case <-over.Done():
		}
	}()
	err := Until(over, try)
	if err != nil && p.HasEnded() {
		text, _ := os.ReadFile(p.Log)
		return fmt.Errorf("%s ended: %s", p.Name, text)
	}
	return err
}

// Patience is how long the tests wait for what must happen: a loaded machine is
// slow, and none of them measures by it.
const Patience = time.Minute

// Until tries again and again until it succeeds, ctx ends, or Patience is over.
func Until(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("given up: %w", err)
		}
	}
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends the process a signal; with SIGSTOP it returns once the process stands still.
func (p *Process) Signal(s syscall.Signal) error {
	err := p.cmd.Process.Signal(s)
	if err != nil || s != syscall.SIGSTOP {
		return err
	}
	// All of its threads have to stop, which takes a while on a busy machine; then its parent is told.
	for {
		var state syscall.WaitStatus
		if _, err = syscall.Wait4(p.cmd.Process.Pid, &state, syscall.WUNTRACED, nil); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// HasEnded tells whether the process is gone.
func (p *Process) HasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// End sends the process a signal that ends it, waits for that, and returns its exit
// code: -1 for one that was killed.
func (p *Process) End(s syscall.Signal) (int, error) {
	if err := p.Signal(s); err != nil {
		return 0, err
	}
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(Patience):
		return 0, fmt.Errorf("%s does not end by %s", p.Name, s)
	}
}

// stop ends the process whatever its state.
func (p *Process) stop() {
	_ = p.Signal(syscall.SIGCONT)
	if _, err := p.End(syscall.SIGTERM); err != nil && !p.HasEnded() {
		_ = p.Signal(syscall.SIGKILL)
		<-p.ended
	}
}
