package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process is a program that was started.
type Process struct {
	Name string
	Log  string // file with its output
	// Addresses has the listeners of an authzd or keyd by their configuration field. AwaitStarted and AwaitListening
	// fill it.
	Addresses map[string]string

	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of Wait; valid once exited is closed
}

// Start starts a program. Its output is appended to the file DIR/NAME.log, except for an output that cmd already
// directs elsewhere. On Linux the process is killed when the calling thread ends.
func Start(dir, name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{Name: name, Log: filepath.Join(dir, name+".log"), Addresses: map[string]string{}, cmd: cmd, exited: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = log
	}
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	_ = log.Close() // the process has its own descriptor
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Pid returns the process ID.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Admin returns the URL of the admin listener.
func (p *Process) Admin() string { return "http://" + p.Addresses["listen.admin"] }

// Output returns what the process has written to its log so far.
func (p *Process) Output() string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Await calls try until it succeeds. It fails if the process exits, if ctx ends, or after Patience.
func (p *Process) Await(ctx context.Context, try func() error) error {
	return await(ctx, p.Name, try, p)
}

// AwaitLine waits until match reports true for a line of the log, which it gets without the newline.
func (p *Process) AwaitLine(ctx context.Context, match func(line string) bool) error {
	seen := 0
	return p.Await(ctx, func() error {
		output := p.Output()
		for {
			line, _, complete := strings.Cut(output[seen:], "\n")
			if !complete {
				return errors.New("the line is not in its log")
			}
			seen += len(line) + 1
			if match(line) {
				return nil
			}
		}
	})
}

// AwaitStarted waits until the log of an authzd or keyd reports that it has started.
func (p *Process) AwaitStarted(ctx context.Context) error {
	return p.awaitMessage(ctx, "started", "")
}

// AwaitListening waits until an authzd or keyd listens at the address of a configuration field, such as listen.admin.
func (p *Process) AwaitListening(ctx context.Context, field string) error {
	return p.awaitMessage(ctx, "listening", field)
}

func (p *Process) awaitMessage(ctx context.Context, msg, field string) error {
	return p.AwaitLine(ctx, func(text string) bool {
		var line struct{ Msg, Field, Address string }
		if json.Unmarshal([]byte(text), &line) != nil {
			return false
		}
		if line.Msg == "listening" {
			p.Addresses[line.Field] = line.Address
		}
		return line.Msg == msg && line.Field == field
	})
}

// Signal sends the process a signal. With SIGSTOP it returns once the process has stopped.
func (p *Process) Signal(s os.Signal) error {
	err := p.cmd.Process.Signal(s)
	if err != nil || s != syscall.SIGSTOP {
		return err
	}
	// The kernel notifies the parent once all threads have stopped, which takes a while on a busy machine.
	for {
		var state syscall.WaitStatus
		if _, err = syscall.Wait4(p.Pid(), &state, syscall.WUNTRACED, nil); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Exited returns a channel that is closed when the process has exited.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// HasExited reports whether the process has exited.
func (p *Process) HasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Status describes how the process exited, such as "exit status 1" or "signal: killed". It waits for the exit.
func (p *Process) Status() string {
	<-p.exited
	if p.err != nil {
		return p.err.Error()
	}
	return "exit status 0"
}

// exitError describes an unexpected exit, with the last lines of the log.
func (p *Process) exitError() error {
	const lines = 10
	last := strings.Split(strings.TrimSpace(p.Output()), "\n")
	return fmt.Errorf("%s exited: %s\n%s", p.Name, p.Status(), strings.Join(last[max(0, len(last)-lines):], "\n"))
}

// Wait waits until the process exits and returns its exit code: -1 if a signal ended it.
func (p *Process) Wait() (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(Patience):
		return 0, fmt.Errorf("timed out waiting for %s to exit", p.Name)
	}
}

// Stop sends a signal that ends the process, waits, and returns the exit code as Wait does.
func (p *Process) Stop(s os.Signal) (int, error) {
	if err := p.Signal(s); err != nil {
		return 0, err
	}
	return p.Wait()
}

// Kill ends the process with SIGKILL and waits for that.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it fails only if the process has exited
	<-p.exited
}

// Shutdown ends the process: with SIGTERM, or with SIGKILL after the grace period. A stopped process is continued.
func (p *Process) Shutdown(grace time.Duration) {
	_ = p.Signal(syscall.SIGCONT)
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(max(0, grace)):
		p.Kill()
	}
}

// Metric returns the value of a series on the admin listener's metrics page, such as `name{label="value"}`.
func (p *Process) Metric(ctx context.Context, series string) (float64, error) {
	text, err := Get(ctx, p.Admin()+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte(series+" ")); ok {
			var v float64
			_, err := fmt.Sscan(string(value), &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", p.Name, series)
}
