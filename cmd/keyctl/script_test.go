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

// update writes the actual output into the scripts. Review it before committing.
var update = os.Getenv("UPDATE_SCRIPTS") != ""

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keyctl": main})
}

// scriptCommands are the additional commands of the scripts.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"exits": exits,
	"field": field, "sidecar": runSidecar,
	// usage runs keyctl with invalid arguments: it must exit with 2, print nothing on standard
	// output and send no request.
	"usage": func(ts *testscript.TestScript, neg bool, args []string) {
		exits(ts, neg, append([]string{"2", "keyctl"}, args...))
		if out := ts.ReadFile("stdout"); out != "" {
			ts.Fatalf("printed %q", out)
		}
		if _, err := os.Stat(ts.MkAbs("api/requests.log")); err == nil {
			ts.Fatalf("sent a request")
		}
	},
}

// field sets a variable to a string in the printed JSON: field VARIABLE NAME…
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

// exits runs a program that must exit with the code: exits CODE PROGRAM ARGUMENTS.
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

// operator sets the environment by which keyctl finds the key API.
func operator(env *testscript.Env, url, token string) error {
	file := filepath.Join(env.WorkDir, "alice.token")
	env.Setenv("GORACE", "atexit_sleep_ms=0") // programs with the race detector sleep for 1 s before they exit
	env.Setenv("URL", url)
	env.Setenv("KEYCTL_URL", url)
	env.Setenv("KEYCTL_TOKEN_FILE", file)
	return os.WriteFile(file, []byte(token+"\n"), 0o600)
}
