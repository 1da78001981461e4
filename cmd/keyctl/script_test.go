package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rogpeppe/go-internal/testscript"
)

// update writes what keyctl prints now into the scripts, to be read before it is committed.
var update = os.Getenv("UPDATE_SCRIPTS") != ""

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keyctl": main})
}

// scriptCommands are what the scripts can do beyond testscript's own.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"exits": exits,
	"field": field, "sidecar": runSidecar,
	// usage runs keyctl with mistakes in its arguments: exit 2, nothing on standard output,
	// and nothing was sent.
	"usage": func(ts *testscript.TestScript, neg bool, args []string) {
		exits(ts, neg, append([]string{"2", "keyctl"}, args...))
		if out := ts.ReadFile("stdout"); out != "" {
			ts.Fatalf("it printed %q", out)
		}
		if _, err := os.Stat(ts.MkAbs("api/requests.log")); err == nil {
			ts.Fatalf("it sent a request")
		}
	},
}

// field sets a variable to a text in the JSON that was printed: field VARIABLE NAME…
func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: field VARIABLE NAME…")
	}
	value := jsontext.Value(ts.ReadFile("stdout"))
	for _, name := range args[1:] {
		var object map[string]jsontext.Value
		ts.Check(json.Unmarshal(value, &object))
		value = object[name]
	}
	var text string
	ts.Check(json.Unmarshal(value, &text))
	ts.Setenv(args[0], text)
}

// exits runs a program that must end with the code: exits CODE PROGRAM ARGUMENTS.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENTS")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got := strconv.Itoa(code); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// operator gives a script what keyctl finds the key API by.
func operator(env *testscript.Env, url, token string) error {
	file := filepath.Join(env.WorkDir, "alice.token")
	env.Setenv("URL", url)
	env.Setenv("KEYCTL_URL", url)
	env.Setenv("KEYCTL_TOKEN_FILE", file)
	return os.WriteFile(file, []byte(token+"\n"), 0o600)
}
