package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// console writes lines for people to a terminal or pipe. It never waits for long:
// a reader that has stopped reading must not stop the demo.
type console struct {
	lines chan string
	done  chan struct{}
}

const patience = time.Second

func newConsole(w io.Writer) *console {
	c := &console{lines: make(chan string, 1024), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for line := range c.lines {
			_, _ = io.WriteString(w, line+"\n") // nobody to tell about an error
		}
	}()
	return c
}

// Say writes a line.
func (c *console) Say(format string, args ...any) {
	select {
	case c.lines <- fmt.Sprintf(format, args...):
	case <-time.After(patience):
	}
}

// Close writes what is left. Nothing may be said afterwards.
func (c *console) Close() {
	close(c.lines)
	select {
	case <-c.done:
	case <-time.After(patience):
	}
}

// Writer returns a writer of whole lines. A line that finds the console busy is
// left out.
func (c *console) Writer() io.Writer { return &lineWriter{console: c} }

type lineWriter struct {
	console *console
	mu      sync.Mutex
	rest    []byte
}

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
