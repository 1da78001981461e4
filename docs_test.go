package repo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/pkg/config"
)

// read returns the texts of files, one after the other.
func read(t *testing.T, files ...string) string {
	t.Helper()
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(append(text, '\n'))
	}
	return all.String()
}

// fenced returns the code blocks of a language.
func fenced(text, language string) []string {
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// TestConfigurationTables: the tables in docs/configuration.md are those of the structs. With UPDATE=1 in
// the environment it writes them.
func TestConfigurationTables(t *testing.T) {
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

// TestMeasuredTables checks that the tables and plots of the pages with measurements are those of the committed results.
func TestMeasuredTables(t *testing.T) {
	for page, plots := range map[string][]result.Plot{"performance": result.Plots(), "soak": nil} {
		t.Run(page, func(t *testing.T) { checkTables(t, page, plots) })
	}
}

func checkTables(t *testing.T, page string, plots []result.Plot) {
	t.Helper()
	document, again := "docs/"+page+".md", "run go run ./bench/report -page "+page
	results, err := result.Load("docs/" + page + "/results.json")
	if err != nil {
		t.Fatal(err)
	}
	written := read(t, document)
	switch filled, err := results.Fill(written); {
	case err != nil:
		t.Error(err)
	case filled != written:
		t.Error(document + " has other tables than its results: " + again)
	}
	pictures, err := results.Draw(plots)
	if err != nil {
		t.Fatal(err)
	}
	for name, picture := range pictures {
		path := "docs/" + name
		if read(t, path) != string(picture)+"\n" {
			t.Errorf("%s is not the plot of the results: %s", path, again)
		}
		if !strings.Contains(written, "]("+name+")") {
			t.Errorf("%s does not show %s", document, path)
		}
	}
}

// TestConfigurationsOfDocs loads what the documentation shows as a configuration file.
func TestConfigurationsOfDocs(t *testing.T) {
	seen := map[string]int{}
	for _, block := range fenced(read(t, "docs/envoy.md"), "yaml") {
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
			t.Errorf("%s is not a file of a program", name)
		}
		if err != nil {
			t.Errorf("%v in\n%s", err, block)
		}
		seen[name]++
	}
	if seen["authzd.yaml"] < 2 || seen["keyd.yaml"] < 1 {
		t.Errorf("docs/envoy.md shows %v", seen)
	}
}

// TestModuleConfigurationsOfDocs loads what docs/module.md shows as filter_config of a filter and of a route.
func TestModuleConfigurationsOfDocs(t *testing.T) {
	token := filepath.Join(t.TempDir(), "key-api.token")
	if err := os.WriteFile(token, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, block := range fenced(read(t, "docs/module.md"), "yaml") {
		var doc any
		if err := yaml.Unmarshal([]byte(strings.ReplaceAll(block, "/etc/phantom/key-api.token", token)), &doc); err != nil {
			t.Errorf("%v in\n%s", err, block)
		}
		for _, filter := range typed(doc) {
			kind, _ := filter["@type"].(string)
			kind = kind[strings.LastIndex(kind, ".")+1:]
			fields, err := json.Marshal(filter["filter_config"].(map[string]any)["value"])
			switch {
			case err != nil:
			case kind == "DynamicModuleFilter":
				_, _, err = config.LoadModule(fields)
			case kind == "DynamicModuleFilterPerRoute":
				_, err = config.LoadRoute(fields)
			}
			if err != nil {
				t.Errorf("%v in\n%s", err, block)
			}
			seen[kind]++
		}
	}
	if seen["DynamicModuleFilter"] != 1 || seen["DynamicModuleFilterPerRoute"] != 1 {
		t.Errorf("docs/module.md shows %v", seen)
	}
}

// typed returns the mappings with a filter_config in a document, at any depth.
func typed(doc any) (found []map[string]any) {
	switch node := doc.(type) {
	case map[string]any:
		if node["filter_config"] != nil {
			found = append(found, node)
		}
		for _, value := range node {
			found = append(found, typed(value)...)
		}
	case []any:
		for _, value := range node {
			found = append(found, typed(value)...)
		}
	}
	return found
}

// TestLinks checks that each relative link of the documentation names a file, and a heading of it if it has a fragment.
func TestLinks(t *testing.T) {
	for _, file := range markdown(t) {
		for _, m := range regexp.MustCompile(`\]\(([^)#:\s]*)(#[^)\s]*)?\)`).FindAllStringSubmatch(read(t, file), -1) {
			target := file
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(file), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(read(t, target)), m[2]) {
				t.Errorf("%s links to %s of %s, which has no such heading", file, m[2], target)
			}
		}
	}
}

// TestNamedTestsExist checks that each test that the documentation names is a test of that package.
func TestNamedTestsExist(t *testing.T) {
	named := 0
	for _, m := range regexp.MustCompile("`([a-z0-9/]+)`(?::| \\()((?:,? ?`(?:Test|Fuzz)[A-Za-z0-9]+`)+)").FindAllStringSubmatch(read(t, "SECURITY.md", "docs/comparison.md"), -1) {
		files, err := filepath.Glob(m[1] + "/*_test.go")
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no tests: %v", m[1], err)
			continue
		}
		source := read(t, files...)
		for _, test := range regexp.MustCompile(`(?:Test|Fuzz)[A-Za-z0-9]+`).FindAllString(m[2], -1) {
			named++
			if !strings.Contains(source, "\nfunc "+test+"(t *testing.T)") {
				t.Errorf("%s has no %s", m[1], test)
			}
		}
	}
	if named < 30 {
		t.Errorf("%d tests are named, want 30 or more: is the pattern right?", named)
	}
}

// TestNamedFilesExist checks that the files that ARCHITECTURE.md follows exist.
func TestNamedFilesExist(t *testing.T) {
	folders := []string{"pkg", "cmd", "pkg/extauthz", "pkg/keystore", "pkg/keystore/internal"}
	for _, name := range regexp.MustCompile(`[a-z]+/[a-z_]+\.go`).FindAllString(read(t, "ARCHITECTURE.md"), -1) {
		if !slices.ContainsFunc(folders, func(folder string) bool {
			_, err := os.Stat(filepath.Join(folder, name))
			return err == nil
		}) {
			t.Errorf("ARCHITECTURE.md names %s, which is in none of %v", name, folders)
		}
	}
}

func markdown(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md", "k8s/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	return files
}

// anchors returns the fragments of a text's headings as GitHub makes them.
func anchors(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		kept := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, "#"+strings.ReplaceAll(kept, " ", "-"))
	}
	return all
}

// TestTranscripts runs the demo and every command of the console blocks in one shell, and compares their output.
func TestTranscripts(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin")+"/", "./cmd/...", "./envoy/echo")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var script strings.Builder
	var want []string
	for _, block := range fenced(read(t, "README.md", "docs/administration.md"), "console") {
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
			t.Errorf("shown:\n%s\nprinted:\n%s", expected, got)
		}
	}
}

func mark(i int) string { return "--- " + strconv.Itoa(i) + " ---" }

// matches compares output with what the README shows of it, where … matches any text.
func matches(shown, got string) bool {
	parts := strings.Split(strings.TrimSpace(shown), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`).MatchString(strings.TrimSpace(got))
}

// startDemo runs what make up runs, in a separate folder and on a free port.
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
	t.Fatalf("make up did not become ready:\n%s", printed.String())
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
