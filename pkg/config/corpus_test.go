package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the messages into the corpus as the wanted ones")

// wanted begins the lines of a corpus file that hold its messages, without the name of the file.
const wanted = "#! "

// TestCorpus: each file of the corpus has one kind of mistake and, at its end, the wanted messages.
func TestCorpus(t *testing.T) {
	loaders := map[string]func(string) error{
		"authzd": func(path string) error { _, err := LoadAuthzd(path); return err },
		"keyd":   func(path string) error { _, err := LoadKeyd(path); return err },
	}
	for program, load := range loaders {
		files, err := filepath.Glob(filepath.Join("testdata", program, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no corpus for %s: %v", program, err)
		}
		for _, path := range files {
			t.Run(program+"/"+strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
				compare(t, path, load(path))
			})
		}
	}
}

func compare(t *testing.T, path string, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("loaded without a mistake")
	}
	here, absErr := filepath.Abs("testdata")
	if absErr != nil {
		t.Fatal(absErr)
	}
	got := strings.ReplaceAll(strings.ReplaceAll(err.Error(), path+":", ""), here, "DIR")
	text, readErr := os.ReadFile(path)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if *update {
		writeWanted(t, path, text, got)
		return
	}
	var want []string
	for line := range strings.Lines(string(text)) {
		if message, ok := strings.CutPrefix(line, wanted); ok {
			want = append(want, strings.TrimSuffix(message, "\n"))
		}
	}
	if want := strings.Join(want, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if strings.Contains(got, "hunter2") || strings.Contains(got, "phk_0") {
		t.Errorf("the message repeats a secret: %s", got)
	}
}

func writeWanted(t *testing.T, path string, text []byte, got string) {
	t.Helper()
	input, _, _ := bytes.Cut(text, []byte(wanted))
	for line := range strings.SplitSeq(got, "\n") {
		input = append(input, wanted+line+"\n"...)
	}
	if err := os.WriteFile(path, input, 0o600); err != nil {
		t.Fatal(err)
	}
}
