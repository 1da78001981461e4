package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// console writes lines to a terminal or pipe. It waits consoleTimeout at most, so that a reader that has stopped reading
// does not stop the demo.
type console struct {
	lines chan string
	done  chan struct{}
}

// consoleTimeout bounds the wait for the reader. Smaller drops lines while the reader is busy; larger delays the stop.
const consoleTimeout = time.Second

func newConsole(w io.Writer) *console {
	c := &console{lines: make(chan string, 1024), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for line := range c.lines {
			_, _ = io.WriteString(w, line+"\n") // an error cannot be reported anywhere
		}
	}()
	return c
}

// Say writes a line.
func (c *console) Say(format string, args ...any) {
	select {
	case c.lines <- fmt.Sprintf(format, args...):
	case <-time.After(consoleTimeout):
	}
}

// Close writes the remaining lines. Say must not be called afterwards.
func (c *console) Close() {
	close(c.lines)
	select {
	case <-c.done:
	case <-time.After(consoleTimeout):
	}
}

// Writer returns a writer of whole lines. It drops lines while the console's buffer is full.
func (c *console) Writer() io.Writer { return &lineWriter{console: c} }

type lineWriter struct {
	console *console
	mu      sync.Mutex
	rest    []byte
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		w.rest = rest
		select {
		case w.console.lines <- string(line):
		default:
		}
	}
}
