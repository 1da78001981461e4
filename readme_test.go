package house

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/pkg/config"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// fenced returns the code blocks of a language.
func fenced(text, language string) []string {
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// TestReadmeTables: the tables in docs/configuration.md are those of the structs. With UPDATE=1 in
// the environment it writes them.
func TestReadmeTables(t *testing.T) {
	const path = "docs/configuration.md"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for name, table := range map[string]string{
		"authzd": config.Reference[config.Authzd](),
		"keyd":   config.Reference[config.Keyd](),
	} {
		begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
		before, rest, found := strings.Cut(text, begin)
		written, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has no place for the table of %s", path, name)
		}
		if written != table && os.Getenv("UPDATE") == "" {
			t.Errorf("%s has another table of %s than the structs: run UPDATE=1 go test -run %s .", path, name, t.Name())
		}
		text = before + begin + table + end + after
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadmeConfigurations: what the README gives as a file is accepted as one.
func TestReadmeConfigurations(t *testing.T) {
	seen := map[string]int{}
	for _, block := range fenced(readme(t), "yaml") {
		name, ok := strings.CutPrefix(strings.SplitN(block, "\n", 2)[0], "# ")
		if !ok {
			var any map[string]any
			if err := yaml.Unmarshal([]byte(block), &any); err != nil {
				t.Errorf("%v in\n%s", err, block)
			}
			continue
		}
		dir := t.TempDir()
		for _, token := range []string{"key-api.token", "alice.token"} {
			if err := os.WriteFile(filepath.Join(dir, token), []byte(token+" 0123456789abcdef"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		switch name {
		case "authzd.yaml":
			_, err = config.LoadAuthzd(path)
		case "keyd.yaml":
			_, err = config.LoadKeyd(path)
		default:
			t.Errorf("who reads %s?", name)
		}
		if err != nil {
			t.Errorf("%v in\n%s", err, block)
		}
		seen[name]++
	}
	if seen["authzd.yaml"] < 2 || seen["keyd.yaml"] < 1 {
		t.Errorf("the README shows %v", seen)
	}
}

// TestReadmeTranscripts runs the demo and every command of the README's console blocks in
// one shell, and compares what they print.
func TestReadmeTranscripts(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin")+"/", "./cmd/...", "./envoy/echo")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var script strings.Builder
	var want []string
	for _, block := range fenced(readme(t), "console") {
		for _, line := range strings.Split(strings.TrimSpace(block), "\n") {
			command, ok := strings.CutPrefix(line, "$ ")
			switch {
			case command == "make up":
				startDemo(t, dir)
				want = append(want, "")
			case ok:
				fmt.Fprintf(&script, "echo '%s'\n%s\n", mark(len(want)), command)
				want = append(want, "")
			case len(want) == 0:
				t.Fatalf("a console block begins with %q and not with a command", line)
			default:
				want[len(want)-1] += line + "\n"
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-s")
	shell.Dir, shell.Stdin = dir, strings.NewReader("curl() { command curl -sS \"$@\"; local code=$?; [ \"$1\" = -o ] || echo; return $code; }\n"+script.String())
	out, err := shell.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("the commands did not end: %v\n%s", err, out)
	}
	for i, expected := range want[1:] {
		_, got, _ := strings.Cut(string(out), mark(i+1)+"\n")
		got, _, _ = strings.Cut(got, mark(i+2)+"\n")
		if !matches(expected, got) {
			t.Errorf("the README says\n%s\nand this is printed\n%s", expected, got)
		}
	}
}

func mark(i int) string { return "--- " + strconv.Itoa(i) + " ---" }

// matches compares output with what the README shows of it, where … stands for anything.
func matches(shown, got string) bool {
	parts := strings.Split(strings.TrimSpace(shown), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`).MatchString(strings.TrimSpace(got))
}

// startDemo runs what make up runs, in a folder and on a port of its own.
func startDemo(t *testing.T, dir string) {
	t.Helper()
	path, err := envoy.Find(t.Context(), envoy.Newest, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	demo := exec.Command(filepath.Join(dir, "bin", "demo"))
	demo.Dir = dir
	demo.Env = append(os.Environ(), "PORT="+strconv.Itoa(freePort(t)), "ENVOY="+path)
	demo.Stderr = os.Stderr
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = demo.Process.Signal(syscall.SIGTERM)
		_ = demo.Wait()
	})
	var printed bytes.Buffer
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		printed.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "ready") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return
		}
	}
	t.Fatalf("make up did not get ready:\n%s", printed.String())
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
