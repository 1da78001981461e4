package daemon

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
)

// Embedded is a program that runs inside another process. That process keeps its signals.
type Embedded struct {
	signals chan os.Signal
	exited  chan struct{}
	stop    sync.Once
}

// Embed loads the configuration, starts the program inside the process of another one, and returns
// when it has started. The log goes to stderr. Changes of the configuration file at path are applied
// as in a process of its own; path is "" without a file.
//
// After an error nothing runs. A component that exits or panics later ends the program, not the
// process.
func Embed[C any](p Program[C], path string, stderr io.Writer) (*Embedded, error) {
	file := contentOf(path)
	cfg, err := p.Load(path)
	if err != nil {
		return nil, err
	}
	r := newRunner(p, path, cfg, stderr)
	r.loaded = file
	e := &Embedded{signals: make(chan os.Signal, 1), exited: make(chan struct{})}
	go func() {
		defer close(e.exited)
		r.run(e.signals)
	}()
	select {
	case err = <-r.started:
	case <-e.exited:
		err = errors.New("the program stopped during its start")
		select {
		case err = <-r.started: // the cause, if both were ready
		default:
		}
	}
	if err != nil {
		<-e.exited
		return nil, err
	}
	return e, nil
}

// Exited reports whether the program has stopped: after Stop, or because a component failed.
func (e *Embedded) Exited() bool { return isClosed(e.exited) }

// Stop drains the program, without its drain delay, and returns when it has stopped, within the
// configured drain. It may be called more than once.
func (e *Embedded) Stop() {
	e.stop.Do(func() { e.signals <- syscall.SIGINT })
	<-e.exited
}
