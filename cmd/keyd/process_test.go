package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// The test binary runs as keyd if the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv("KEYD_TEST_MAIN") != "" {
		main()
	}
	// The tests mostly wait, so more of them run in parallel than there are processors. The command line overrides this.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	code := m.Run()
	if server := started.Load(); server != nil {
		_ = server.Remove()
	}
	_ = os.RemoveAll(programsDir)
	os.Exit(code)
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "KEYD_TEST_MAIN=yes")
	return cmd
}

// run runs keyd until it exits.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// process is a running keyd.
type process struct {
	*testbed.Process
	t *testing.T
}

// launch starts keyd and waits until it has started.
func launch(t *testing.T, config string) *process {
	t.Helper()
	return launchUntil(t, config, (*testbed.Process).AwaitStarted)
}

// launchUntil starts keyd and waits with await.
func launchUntil(t *testing.T, config string, await func(*testbed.Process, context.Context) error) *process {
	t.Helper()
	started, err := testbed.Start(t.TempDir(), "keyd", command(t, "-config", config))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		started.Kill()
		for line := range strings.Lines(started.Output()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("log line is not JSON: %s", line)
			}
		}
	})
	if err := await(started, t.Context()); err != nil {
		t.Fatal(err)
	}
	return &process{started, t}
}

// stop sends the signal and checks that keyd exits with code 0.
func (p *process) stop(s syscall.Signal) {
	p.t.Helper()
	if code, err := p.Stop(s); code != 0 || err != nil {
		p.t.Errorf("exit code %d, %v\n%s", code, err, p.Output())
	}
}

// reload sends SIGHUP and waits until the effect has come.
func (p *process) reload(effect func() error) {
	p.t.Helper()
	if err := p.Signal(syscall.SIGHUP); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, "reload", effect)
}

// eventually waits until try succeeds.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	if err := testbed.Until(t.Context(), try); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// exchange sends one request to a side, compares the exchange with the OpenAPI document, and returns the answer.
func (p *process) exchange(side, bearer, method, path, body string) (status int, header http.Header, answer string) {
	p.t.Helper()
	r, err := http.NewRequest(method, "http://"+p.Addresses["listen."+side]+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Errorf("%s %s: %v", method, path, err)
		return 0, nil, ""
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Errorf("%s %s: %d: %v", method, path, resp.StatusCode, err)
	}
	p.checkDocumented(r, body, resp.StatusCode, resp.Header, raw)
	return resp.StatusCode, resp.Header, string(raw)
}

// request sends one request to a side and returns the status and the decoded answer.
func (p *process) request(side, bearer, method, path, body string) (int, object) {
	p.t.Helper()
	status, _, raw := p.exchange(side, bearer, method, path, body)
	var v object
	if err := json.Unmarshal([]byte(raw), &v); err != nil && status != http.StatusNoContent && status != 0 {
		p.t.Errorf("%s %s: %d: %v", method, path, status, err)
	}
	return status, v
}

// operator sends a request of the operator alice, which must succeed.
func (p *process) operator(method, path, body string) object {
	p.t.Helper()
	status, v := p.request("operators", aliceToken, method, path, body)
	if status >= 300 {
		p.t.Fatalf("%s %s: %d %v", method, path, status, v)
	}
	return v
}

// change sends a request of the operator alice and returns the change of the answer.
func (p *process) change(method, path, body string) object {
	p.t.Helper()
	return p.operator(method, path, body).object("change")
}

// account creates an account.
func (p *process) account(id string) {
	p.t.Helper()
	p.operator("POST", "/v1/accounts", `{"id":"`+id+`","name":"Ann"}`)
}

// mint mints a key of the account a, and returns its id and its digest.
func (p *process) mint() (id, digest string) {
	p.t.Helper()
	v := p.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`)
	return v.object("key").text("id"), digestOf(v.text("plaintext"))
}

func digestOf(plaintext string) string { return credential.NewSecret(plaintext).Digest().Hex() }

// state returns a key's state as sidecars see it.
func (p *process) state(digest string) string {
	p.t.Helper()
	_, v := p.request("sidecars", sidecarToken, "POST", "/v1/resolve", `{"credentials":["`+digest+`"]}`)
	return fmt.Sprint(v.list("credentials")[0].(map[string]any)["state"])
}

// object is a JSON object. Its methods panic if a field has another type.
type object map[string]any

func (o object) object(name string) object { return o[name].(map[string]any) }
func (o object) list(name string) []any    { return o[name].([]any) }
func (o object) text(name string) string   { return o[name].(string) }
func (o object) revision() int64           { return int64(o["revision"].(float64)) }

// time returns the time of a field.
func (o object) time(t *testing.T, name string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, fmt.Sprint(o[name]))
	if err != nil {
		t.Fatalf("%s of %v: %v", name, o, err)
	}
	return at
}

// polls is the number of the last poll of all tests.
var polls atomic.Int64

// poll polls as the sidecar s. With after -1 it requests the head, and acknowledges it.
func (p *process) poll(after int64, epoch string, wait time.Duration) (int, object) {
	p.t.Helper()
	status, v := p.request("sidecars", sidecarToken, "POST", "/v1/changes", fmt.Sprintf(
		`{"sidecar":"s","poll":%d,"after":%d,"epoch":%q,"wait_ms":%d,"max_stale_ms":600000}`, polls.Add(1), after, epoch, wait.Milliseconds()))
	if after == -1 && status == http.StatusGone {
		return p.poll(v.revision(), v.text("epoch"), wait)
	}
	return status, v
}

const (
	aliceToken   = "canary-alice-token"
	sidecarToken = "canary-sidecar-token"
)

// configure writes a configuration with free ports and more at its end, and returns its path.
func configure(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "keyd.yaml")
	write(t, filepath.Join(dir, "key-api.token"), sidecarToken+"\n")
	write(t, filepath.Join(dir, "alice.token"), aliceToken+"\n")
	write(t, config, `listen:
  sidecars: tcp://127.0.0.1:0
  operators: tcp://127.0.0.1:0
  owners: unix://`+dir+`/owners.sock
  admin: tcp://127.0.0.1:0
store: sqlite://`+dir+`/keys.db
sidecar_token_files: [key-api.token]
operators: [{name: alice, token_file: alice.token}]
lease: 15s
log_retention: 1h
longest_max_stale: 1h
keys_per_account: 100
owner_limits: {changes_per_minute: 60000, burst: 10000, concurrent: 100}
`+more)
	return config
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replaceIn replaces texts in a configuration: from, to, from, to… Each must occur.
func replaceIn(t *testing.T, file string, fromTo ...string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for i := 0; i < len(fromTo); i += 2 {
		if !strings.Contains(text, fromTo[i]) {
			t.Fatalf("%s does not contain %q", file, fromTo[i])
		}
		text = strings.Replace(text, fromTo[i], fromTo[i+1], 1)
	}
	write(t, file, text)
}

// ownersSocket returns the path of the owners' socket of a configuration.
func ownersSocket(config string) string { return filepath.Join(filepath.Dir(config), "owners.sock") }
