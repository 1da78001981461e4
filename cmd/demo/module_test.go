package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// printed returns the requests that the demo has printed with their answers, without what differs in each run.
func (d *demo) printed(t *testing.T) []string {
	t.Helper()
	d.prints(t, "# As an operator")
	var lines []string
	for line := range strings.Lines(d.Output()) {
		switch {
		case strings.HasPrefix(line, "#"), strings.HasPrefix(line, "curl"):
			lines = append(lines, line)
		case strings.HasPrefix(line, "2"), strings.HasPrefix(line, "4"): // an answer
			status, _, _ := strings.Cut(line, "  ")
			if !strings.Contains(line, `"statusCode"`) {
				line = status // it has the credential's ID
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// TestDemoWithModule: Envoy checks the same requests without authzd, and a stop ends the module before keyd, from which it
// deregisters.
func TestDemoWithModule(t *testing.T) {
	c := newClone(t)
	plain := c.up(t, freePort(t))
	want := plain.printed(t)
	plain.stop(t, syscall.SIGINT)

	d := c.up(t, freePort(t), "MODULE=1")
	if got := d.printed(t); !slices.Equal(got, want) || len(want) < 3*len(examples) {
		t.Errorf("printed:\n%q\nwith authzd:\n%q", got, want)
	}
	if out, err := exec.Command("pgrep", "-x", "-P", strconv.Itoa(d.Pid()), "authzd").Output(); err == nil {
		t.Errorf("authzd runs, too: process %s", out)
	}
	metrics, err := testbed.Get(t.Context(), d.env["AUTHZD_ADMIN"]+"/metrics")
	if err != nil || !strings.Contains(string(metrics), "phantom_authz_checks_total") {
		t.Errorf("metrics of the module: %v\n%s", err, metrics)
	}

	log, err := os.Open(c.file(".demo/envoy.log")) // the stop removes the file
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	d.stop(t, syscall.SIGINT)
	d.gone(t)
	c.leavesNothing(t)
	text, err := io.ReadAll(log)
	if err != nil || !saysGoodbye(string(text)) {
		t.Errorf("the module has not stopped in order: %v\n%s", err, text)
	}
}

// saysGoodbye reports whether a log shows that the module has stopped and deregistered.
func saysGoodbye(log string) bool {
	stopped := false
	for text := range strings.Lines(log) {
		var line struct{ Msg string }
		if json.Unmarshal([]byte(text), &line) != nil {
			continue
		}
		if strings.HasPrefix(line.Msg, "deregistration failed") {
			return false
		}
		stopped = stopped || line.Msg == "stopped"
	}
	return stopped
}
