package faults_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// proxy is an Envoy with the module, or with an authzd, in front of an upstream of its own.
type proxy struct {
	*testbed.Process // its admin pages are the module's, if it has one
	*envoyClient
	admin string // URL of Envoy's admin listener
}

// envoyOptions are those of an Envoy. The zero value is that of envoy.yaml with one worker.
type envoyOptions struct {
	addr   string                            // HOST:PORT for clients; "": a free one
	fields testbed.Config                    // replace fields of the module's configuration
	authz  string                            // socket of an authzd that decides in place of the module
	edit   func(config map[string]any) error // changes Envoy's configuration
	args   []string                          // further ones
}

// startEnvoy starts an Envoy of the newest version and waits until it listens and its module has started.
func (s *fixture) startEnvoy(t testing.TB, name string, o envoyOptions) *proxy {
	t.Helper()
	ports := must(testbed.FreeAddresses(3))(t)
	o.addr = cmp.Or(o.addr, ports[0])
	fields := testbed.Config{
		"listen":  testbed.Config{"admin": "tcp://127.0.0.1:0"},
		"key_api": testbed.Config{"url": "unix://" + s.Socket("sidecars"), "token_file": "key-api.token"},
		"log":     testbed.Config{"level": "debug"},
	}
	maps.Copy(fields, o.fields)
	config := must(renderFor(o, envoy.Addresses{
		Listener: "tcp://" + o.addr, Admin: "tcp://" + ports[1], Monitor: "tcp://" + ports[2],
		Owners: "unix://" + s.Socket("owners"), Upstream: "tcp://" + newUpstream(t),
	}, fields))(t)
	var doc map[string]any
	if err := yaml.Unmarshal(config, &doc); err != nil {
		t.Fatal(err)
	}
	reportReason(doc)
	setTimeouts(doc)
	if o.authz != "" {
		setPatience(doc)
	}
	if o.edit != nil {
		if err := o.edit(doc); err != nil {
			t.Fatal(err)
		}
	}
	file := s.File(name + ".yaml")
	writeYAML(t, file, doc)
	args := slices.Concat([]string{"-c", file, "--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", "200"}, o.args)
	if !slices.Contains(args, "--concurrency") {
		args = append(args, "--concurrency", "1")
	}
	cmd := exec.Command(must(envoy.Find(t.Context(), envoy.Newest, os.Stderr))(t), args...)
	cmd.Dir = s.Dir // of relative file names
	cmd.Env = append(os.Environ(), envoy.ModuleEnv(built(t))...)
	p := &proxy{Process: must(s.Start(s.next(name), cmd))(t), envoyClient: newEnvoyClient(t, o.addr), admin: "http://" + ports[1]}
	if o.authz == "" {
		if err := p.AwaitStarted(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, p.Name, func() error { return testbed.Probe(t.Context(), p.admin+"/ready") })
	return p
}

// next returns the name of a process and of its log: NAME, then NAME-2 and so on.
func (s *fixture) next(name string) string {
	n := 1
	for _, p := range s.Processes() {
		if p.Name == name || strings.HasPrefix(p.Name, name+"-") {
			n++
		}
	}
	if n == 1 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, n)
}

func writeYAML(t testing.TB, file string, doc map[string]any) {
	t.Helper()
	text := must(yaml.Marshal(doc))(t)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// manager returns the HTTP connection manager of a listener.
func manager(listener map[string]any) map[string]any {
	chain := listener["filter_chains"].([]any)[0].(map[string]any)
	return chain["filters"].([]any)[0].(map[string]any)["typed_config"].(map[string]any)
}

// publicListener returns the listener of a rendered configuration.
func publicListener(config map[string]any) map[string]any {
	return config["static_resources"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
}

// reasonHeader has the reason of a check, in the answers of startEnvoy's only.
const reasonHeader = "x-reason"

func reportReason(config map[string]any) {
	manager(publicListener(config))["route_config"].(map[string]any)["response_headers_to_add"] = []any{map[string]any{
		"header":        map[string]any{"key": reasonHeader, "value": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%"},
		"append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
	}}
}

// setTimeouts has Envoy close idle connections to the upstream soon, so that their number shows a leak, and wait for new ones
// on a busy machine.
func setTimeouts(config map[string]any) {
	for _, cluster := range config["static_resources"].(map[string]any)["clusters"].([]any) {
		cluster.(map[string]any)["connect_timeout"] = "20s"
		for _, options := range cluster.(map[string]any)["typed_extension_protocol_options"].(map[string]any) {
			options.(map[string]any)["common_http_protocol_options"] = map[string]any{"idle_timeout": "5s"}
		}
	}
}

// Headers of the upstream's answers: which credential and how many bytes it received.
const (
	receivedCredential = "X-Received-Credential"
	receivedBytes      = "X-Received-Bytes"
)

// newUpstream runs an upstream until the test ends, and returns its HOST:PORT.
func newUpstream(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body) // the number shows an incomplete body
		w.Header().Set(receivedCredential, strings.Join(r.Header.Values(credential.CredentialHeader), ","))
		w.Header().Set(receivedBytes, strconv.FormatInt(n, 10))
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.Listener.Addr().String()
}

// envoyClient sends requests to an Envoy over HTTP/1.1.
type envoyClient struct {
	addr string
	http *http.Transport
}

func newEnvoyClient(t testing.TB, addr string) *envoyClient {
	c := &envoyClient{addr, &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1000}}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// request is GET /api/v1/me without a credential unless it says otherwise.
type request struct {
	path   string
	secret credential.Secret
	body   string // makes it a POST
}

// reply is the answer of a check with what the upstream has received.
type reply struct {
	testbed.Answer
	credential string // "" for a denial
	received   int
}

// send sends the request. If an answer is neither the module's denial nor the upstream's, its reason says so.
func (c *envoyClient) send(ctx context.Context, r request) (reply, error) {
	const mine = "/api/v1/me" // any credential may use it
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if r.body != "" {
		method, body = http.MethodPost, strings.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.addr+cmp.Or(r.path, mine), body)
	if err != nil {
		return reply{}, err
	}
	switch text := r.secret.Reveal(); {
	case strings.HasPrefix(text, credential.SessionPrefix):
		req.Header["Cookie"] = []string{"phantom_session=" + text}
		req.Header["Origin"] = []string{"https://app.phantomrouter.ai"}
	case text != "":
		req.Header["Authorization"] = []string{"Bearer " + text}
	}
	response, err := c.http.RoundTrip(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return reply{}, err
	}
	got := reply{Answer: testbed.Answer{Reason: response.Header.Get(reasonHeader), Status: response.StatusCode}}
	received := response.Header.Get(receivedBytes)
	switch {
	case (received != "") != (got.Answer == allowed):
		got.Reason = fmt.Sprintf("reason %q, from the upstream %t: %s", got.Reason, received != "", text)
	case received != "":
		got.credential = response.Header.Get(receivedCredential)
		got.received, err = strconv.Atoi(received)
	}
	return got, err
}

// Check implements checker.
func (c *envoyClient) Check(ctx context.Context, s credential.Secret, _ ...grpc.CallOption) (testbed.Answer, error) {
	got, err := c.send(ctx, request{secret: s})
	return got.Answer, err
}

// CheckAsEnvoy implements checker. The module has the timeout.
func (c *envoyClient) CheckAsEnvoy(ctx context.Context, s credential.Secret) (testbed.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, testbed.Patience)
	defer cancel()
	return c.Check(ctx, s)
}
