package envoy_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// proxy is a running Envoy.
type proxy struct {
	*testbed.Process
	setup
	addr    string // HOST:PORT for clients
	admin   string // HOST:PORT of Envoy's admin listener
	monitor string // HOST:PORT for probes and Prometheus
	env     *environment

	corsLast bool          // ext_authz precedes cors: denials have no CORS headers
	adapt    func(*answer) // removes listed differences from answers; nil: there are none

	checks *testbed.Process // which checks: authzd, or this Envoy. Only withKeyAPI sets it
}

// startEnvoy runs envoy.yaml in an Envoy. Missing addresses are those of the environment. The fields of changes replace
// those of the module's configuration. The edits change the rendered configuration.
func (env *environment) startEnvoy(name string, s setup, a envoy.Addresses, changes testbed.Config, edits ...edit) (*proxy, error) {
	p, err := env.launch(name, s, a, changes, edits...)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := p.Await(ctx, func() error { return testbed.Probe(ctx, "http://"+p.admin+"/ready") }); err != nil {
		return nil, err
	}
	if s.front == module {
		err = cmp.Or(p.AwaitStarted(ctx), awaitReady(ctx, p.Process))
	}
	return p, err
}

// launch is startEnvoy without the wait until it is ready.
func (env *environment) launch(name string, s setup, a envoy.Addresses, changes testbed.Config, edits ...edit) (*proxy, error) {
	ports, err := testbed.FreeAddresses(3)
	if err != nil {
		return nil, err
	}
	p := &proxy{setup: s, addr: ports[0], admin: ports[1], monitor: ports[2], env: env}
	a.Admin, a.Monitor = "tcp://"+p.admin, "tcp://"+p.monitor
	a.Listener = cmp.Or(a.Listener, "tcp://"+p.addr)
	a.Owners = cmp.Or(a.Owners, env.socket("owners"))
	a.Authz = cmp.Or(a.Authz, env.socket("authz"))
	a.Upstream = cmp.Or(a.Upstream, "tcp://"+env.echo)
	config, err := env.render(s, a, changes)
	if err != nil {
		return nil, err
	}
	if config, err = edited(config, edits); err != nil {
		return nil, err
	}
	file := env.File(name + ".yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	program, err := envoy.Find(context.Background(), s.version, os.Stderr)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, envoy.Args(file)...)
	cmd.Env = append(os.Environ(), envoy.ModuleEnv(programs.dir)...)
	p.Process, err = env.Start(name, cmd)
	return p, err
}

// render returns the configuration of a setup.
func (env *environment) render(s setup, a envoy.Addresses, changes testbed.Config) ([]byte, error) {
	if s.front == module {
		return envoy.RenderModule(a, env.ModuleConfig(checkConfig(changes)))
	}
	return envoy.Render(a)
}

// edit changes a rendered configuration.
type edit = func(config map[string]any)

func edited(config []byte, edits []edit) ([]byte, error) {
	if len(edits) == 0 {
		return config, nil
	}
	var doc map[string]any
	if err := yaml.Unmarshal(config, &doc); err != nil {
		return nil, err
	}
	for _, edit := range edits {
		edit(doc)
	}
	return yaml.Marshal(doc)
}

// manager returns the HTTP connection manager of a configuration.
func manager(config map[string]any) map[string]any {
	listener := config["static_resources"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
	chain := listener["filter_chains"].([]any)[0].(map[string]any)
	return chain["filters"].([]any)[0].(map[string]any)["typed_config"].(map[string]any)
}

// cluster returns a cluster of a configuration.
func cluster(config map[string]any, name string) map[string]any {
	clusters := config["static_resources"].(map[string]any)["clusters"].([]any)
	i := slices.IndexFunc(clusters, func(c any) bool { return c.(map[string]any)["name"] == name })
	return clusters[i].(map[string]any)
}

// ownEnvoy is startEnvoy for one test, with the checks of the environment.
func (env *environment) ownEnvoy(t *testing.T, s setup, a envoy.Addresses, edits ...edit) *proxy {
	t.Helper()
	return env.ownModule(t, s, a, nil, edits...)
}

// ownChecks is ownEnvoy with other checks: those of a separate authzd, or of the module. The fields of changes replace
// those of their configuration.
func (env *environment) ownChecks(t *testing.T, s setup, a envoy.Addresses, changes testbed.Config, edits ...edit) *proxy {
	t.Helper()
	if s.front == authzd {
		name := unique("authzd")
		env.ownAuthzd(t, name, changes)
		a.Authz = env.socket(name)
	}
	return env.ownModule(t, s, a, changes, edits...)
}

// ownWithoutAnswers is ownEnvoy whose checks get no answer: from authzd, or from the key API.
func (env *environment) ownWithoutAnswers(t *testing.T, s setup) *proxy {
	t.Helper()
	return env.ownModule(t, s, envoy.Addresses{Authz: env.socket("missing")}, env.withoutKeyAPI())
}

func (env *environment) withoutKeyAPI() testbed.Config {
	return testbed.Config{"key_api": testbed.Config{"url": env.socket("missing"), "token_file": env.File("key-api.token")}}
}

func (env *environment) ownModule(t *testing.T, s setup, a envoy.Addresses, changes testbed.Config, edits ...edit) *proxy {
	t.Helper()
	p, err := env.startEnvoy(unique("envoy-"+s.String()), s, a, changes, edits...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Shutdown(5 * time.Second) })
	return p
}

var names atomic.Int64

// unique returns a name that no other process has.
func unique(name string) string { return fmt.Sprintf("%s-%d", name, names.Add(1)) }

// adminPage returns a page of Envoy's admin listener.
func (p *proxy) adminPage(t *testing.T, path string) []byte {
	t.Helper()
	text, err := testbed.Get(t.Context(), "http://"+p.admin+path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// request is GET over HTTP/1.1 unless it says otherwise.
type request struct {
	method  string
	path    string
	headers []string // NAME: VALUE, in this spelling
	body    string
	http2   bool
}

func (r request) with(headers ...string) request {
	r.headers = slices.Concat(r.headers, headers)
	return r
}

func bearer(key string) string { return "Authorization: Bearer " + key }

func cookie(session string) string { return "Cookie: phantom_session=" + session }

const (
	webApp      = "Origin: https://app.phantomrouter.ai"
	otherOrigin = "Origin: https://evil.example"
	companion   = "/api/v1/me/vector-store" // requires the scope chat:companion
)

type answer struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
}

// received is the request that arrived at the echo upstream, as its answer describes it.
type received struct {
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"`
}

// upstream parses an answer of the echo upstream. It reports whether it is one.
func (a answer) upstream() (received, bool) {
	var echo received
	err := json.Unmarshal([]byte(a.body), &echo)
	return echo, err == nil && echo.Method != ""
}

// reached reports whether the request passed the sidecar: to the upstream, or to keyd's owner API, which has no 401 and
// no 503 like the sidecar's.
func (a answer) reached() bool {
	_, echo := a.upstream()
	return echo || strings.HasPrefix(a.body, `{"keys":`) || a.status == http.StatusSwitchingProtocols
}

// do sends the request and returns its answer. Without one the test fails.
func (p *proxy) do(t *testing.T, r request) answer {
	t.Helper()
	a, err := p.send(t.Context(), r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	if p.adapt != nil {
		p.adapt(&a)
	}
	return a
}

// send sends the request. Its timeout is 10 s if ctx has no deadline. It writes HTTP/1.1 itself, because net/http would
// refuse half of the requests.
func (p *proxy) send(ctx context.Context, r request) (answer, error) {
	r.method = cmp.Or(r.method, http.MethodGet)
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
	}
	if r.http2 {
		return p.sendHTTP2(ctx, r)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: api.example\r\n", r.method, r.path)
	for _, header := range r.headers {
		head.WriteString(header + "\r\n")
	}
	if r.body != "" {
		fmt.Fprintf(&head, "Content-Length: %d\r\n", len(r.body))
	}
	if _, err := io.WriteString(conn, head.String()+"\r\n"+r.body); err != nil {
		return answer{}, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: r.method})
	if err != nil {
		return answer{}, err
	}
	return read(response)
}

var http2Only = func() *http.Transport {
	t := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}()

func (p *proxy) sendHTTP2(ctx context.Context, r request) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, "http://"+p.addr, strings.NewReader(r.body))
	if err != nil {
		return answer{}, err
	}
	req.Host = "api.example"
	req.URL.Opaque = r.path // is sent unchanged
	for _, header := range r.headers {
		name, value, _ := strings.Cut(header, ":")
		name = strings.ToLower(name)
		req.Header[name] = append(req.Header[name], strings.TrimSpace(value))
	}
	response, err := http2Only.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	return read(response)
}

func read(response *http.Response) (answer, error) {
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return answer{status: response.StatusCode, header: response.Header}, nil
	}
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body), response.Trailer}, err
}
