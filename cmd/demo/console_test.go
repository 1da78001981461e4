package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestConsoleDoesNotWaitForItsReader(t *testing.T) {
	reader, writer := io.Pipe() // without a reader
	out := newConsole(writer)
	w := out.Writer()
	for range 10_000 {
		if n, err := fmt.Fprintf(w, "one\ntwo\n"); n != 8 || err != nil {
			t.Fatal(n, err)
		}
	}
	begin := time.Now()
	out.Say("full")
	out.Close()
	if took := time.Since(begin); took > 4*consoleTimeout {
		t.Errorf("it waits for %v", took)
	}
	_ = reader.Close()
}

func TestConsoleWritesWholeLines(t *testing.T) {
	var got strings.Builder
	out := newConsole(&got)
	w := out.Writer()
	for _, piece := range []string{"a", "b\nc", "\n", "no end"} {
		_, _ = io.WriteString(w, piece)
	}
	out.Say("said %d", 1)
	out.Close()
	if diff := cmp.Diff("ab\nc\nsaid 1\n", got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
