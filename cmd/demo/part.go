package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// part is one running program of the demo.
type part struct {
	name    string
	logFile string
	process *os.Process
	ended   chan struct{} // closed when the process is gone
	err     error         // how it ended; to be read after ended
}

// start runs a program. It must be called on the main thread. The program's log
// goes to logFile; stdout, if it is not nil, gets its standard output besides.
func start(name, path string, args []string, logFile string, stdout io.Writer) (*part, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = time.Second
	cmd.Stdout, cmd.Stderr = log, log
	if stdout != nil {
		cmd.Stdout = io.MultiWriter(log, stdout)
	}
	if err := cmd.Start(); err != nil {
		_ = log.Close()
		return nil, fmt.Errorf("%s does not start: %w", name, err)
	}
	p := &part{name: name, logFile: logFile, process: cmd.Process, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		_ = log.Close()
		close(p.ended)
	}()
	return p, nil
}

// how tells how the part ended.
func (p *part) how() string {
	if p.err == nil {
		return "exit status 0"
	}
	return p.err.Error()
}

// failure is the error of a part that ended before the demo was ready.
func (p *part) failure() error {
	log, err := os.ReadFile(p.logFile)
	if err != nil {
		return fmt.Errorf("%s ended: %s", p.name, p.how())
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return fmt.Errorf("%s ended: %s\n%s", p.name, p.how(), strings.Join(lines[max(0, len(lines)-5):], "\n"))
}

// stop ends the process: first politely, and for good after the time.
func (p *part) stop(patience time.Duration) {
	_ = p.process.Signal(syscall.SIGTERM) // it may be gone already
	select {
	case <-p.ended:
	case <-time.After(max(0, patience)):
		_ = p.process.Kill()
		<-p.ended
	}
}
