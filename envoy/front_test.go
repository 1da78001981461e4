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
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// front is a running Envoy.
type front struct {
	version string
	addr    string // HOST:PORT where clients come in
	admin   string // HOST:PORT
	*process
	w *world
}

// startEnvoy runs envoy.yaml in an Envoy of that version. Addresses that are not
// given are the world's. The edits are made in the rendered configuration.
func (w *world) startEnvoy(name, version string, a envoy.Addresses, edits ...func(config map[string]any)) (*front, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	f := &front{version: version, addr: ports[0], admin: ports[1], w: w}
	a.Admin = "tcp://" + f.admin
	a.Listener = cmp.Or(a.Listener, "tcp://"+f.addr)
	a.Owners = cmp.Or(a.Owners, "unix://"+w.file("owners.sock"))
	a.Authz = cmp.Or(a.Authz, "unix://"+w.file("authz.sock"))
	a.Upstream = cmp.Or(a.Upstream, "tcp://"+w.echo)
	config, err := envoy.Render(a)
	if err != nil {
		return nil, err
	}
	if config, err = edited(config, edits); err != nil {
		return nil, err
	}
	if err := os.WriteFile(w.file(name+".yaml"), config, 0o600); err != nil {
		return nil, err
	}
	program, err := envoy.Find(context.Background(), version, os.Stderr)
	if err != nil {
		return nil, err
	}
	if f.process, err = w.run(name, program, envoy.Args(w.file(name+".yaml"))...); err != nil {
		return nil, err
	}
	return f, f.until(func() error { return get200("http://" + f.admin + "/ready") })
}

func edited(config []byte, edits []func(map[string]any)) ([]byte, error) {
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

// ownEnvoy is startEnvoy for one test.
func (w *world) ownEnvoy(t *testing.T, version string, a envoy.Addresses, edits ...func(config map[string]any)) *front {
	t.Helper()
	name := "envoy-" + strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	f, err := w.startEnvoy(name, version, a, edits...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.stop)
	return f
}

// request is one to make; GET over HTTP/1.1 unless it says otherwise.
type request struct {
	method  string
	path    string
	headers []string // NAME: VALUE, in this spelling
	body    string
	http2   bool
}

func (r request) with(headers ...string) request {
	r.headers = append(append([]string{}, r.headers...), headers...)
	return r
}

func bearer(key string) string { return "Authorization: Bearer " + key }

func cookie(session string) string { return "Cookie: phantom_session=" + session }

const (
	webApp      = "Origin: https://app.phantomrouter.ai"
	foreignPage = "Origin: https://evil.example"
	companion   = "/api/v1/me/vector-store" // takes the scope chat:companion
)

// answer is what came back.
type answer struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
}

// arrived is what the upstream says that arrived there.
type arrived struct {
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"`
}

// upstream returns what arrived at the echo upstream, if this is its answer.
func (a answer) upstream() (arrived, bool) {
	var echo arrived
	err := json.Unmarshal([]byte(a.body), &echo)
	return echo, err == nil && echo.Method != ""
}

// reached tells whether the request got past the sidecar: to the upstream or to
// keyd's owner API, which has no 401 and no 503 like the sidecar's.
func (a answer) reached() bool {
	_, echo := a.upstream()
	return echo || strings.HasPrefix(a.body, `{"keys":`) || a.status == http.StatusSwitchingProtocols
}

func (f *front) ask(t *testing.T, r request) answer {
	t.Helper()
	a, err := f.send(t.Context(), r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return a
}

// send makes the request, within 10 s if ctx has no deadline. HTTP/1.1 is written by hand: an honest client would not
// send half of it.
func (f *front) send(ctx context.Context, r request) (answer, error) {
	if r.method == "" {
		r.method = http.MethodGet
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
	}
	if r.http2 {
		return f.sendHTTP2(ctx, r)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", f.addr)
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

func (f *front) sendHTTP2(ctx context.Context, r request) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, "http://"+f.addr, strings.NewReader(r.body))
	if err != nil {
		return answer{}, err
	}
	req.Host = "api.example"
	req.URL.Opaque = r.path // goes out as it is
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
