package envoy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// differences are the properties of the contract that a mesh may lack: docs/istio.md and docs/envoy-gateway.md list them.
type differences struct {
	Vary        bool   // answers have vary: Origin
	Trailers    bool   // identity headers among the trailers are removed
	Limits      bool   // authzd may write identity headers only
	OwnHeaders  bool   // authzd receives only the headers that it reads
	KeydJSON    bool   // the JSON of a keyd that does not answer
	GRPCWithout string // grpc-status of a check without authzd
	NoInternal  bool   // x-envoy-* headers of clients are removed
}

// httpOptions names the protocol of a cluster. Envoy drops trailers towards an upstream that uses HTTP/1.1.
const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func TestMeshDifferences(t *testing.T) {
	want := map[string]differences{
		"istio":             {GRPCWithout: "14", NoInternal: true},
		"istio-envoyfilter": {Vary: true, Trailers: true, Limits: true, OwnHeaders: true, KeydJSON: true, GRPCWithout: "14", NoInternal: true},
		"envoy-gateway":     {OwnHeaders: true, GRPCWithout: "2", NoInternal: true},
	}
	onMeshes(t, func(t *testing.T, m mesh, version string) {
		if got := differencesOf(t, m, version); got != want[m.name] {
			t.Errorf("%+v, want %+v", got, want[m.name])
		}
	})
}

func differencesOf(t *testing.T, m mesh, version string) (d differences) {
	env := shared(t)
	arrived := make(chan *http.Request, 10)
	upstream := serve(t, "127.0.0.1:0", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- r
	}))
	checks := make(chan *auth.CheckRequest, 10)
	socket := env.Socket(unique("own"))
	serveChecks(t, "unix", socket, func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
		checks <- r
		return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers: []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: "x-admin", Value: "1"}, Append: wrapperspb.Bool(false)}},
		}}}, nil
	})
	p := env.meshProxy(t, m, version, m.authzd(t, env), "tcp://"+upstream.addr, func(config map[string]any) {
		virtualHost(config)["domains"] = []any{"*"} // trailers are sent with another host
		for _, c := range config["static_resources"].(map[string]any)["clusters"].([]any) {
			if c := c.(map[string]any); strings.Contains(fmt.Sprint(c["load_assignment"]), fmt.Sprint(address(t, "tcp://"+upstream.addr))) {
				c["typed_extension_protocol_options"] = map[string]any{httpOptions: map[string]any{
					"@type": "type.googleapis.com/" + httpOptions, "explicit_http_config": map[string]any{"http2_protocol_options": map[string]any{}},
				}}
			}
		}
	})
	p.adapt = nil
	d.Vary = p.do(t, request{path: companion}).header.Get("Vary") == "Origin"
	p.sendTrailers(t, true, bearer(env.creds.Chat), http.Header{"X-Phantom-Scopes": {"admin"}})
	d.Trailers = len((<-arrived).Trailer.Get("X-Phantom-Scopes")) == 0
	p.do(t, request{path: companion}.with(bearer(env.creds.Chat), "X-Envoy-Original-Path: /", "X-Envoy-Upstream-Alt-Stat-Name: x"))
	d.NoInternal = (<-arrived).Header.Get("X-Envoy-Upstream-Alt-Stat-Name") == ""

	trusting := env.meshProxy(t, m, version, "unix://"+socket, "tcp://"+upstream.addr)
	d.Limits = trusting.do(t, request{path: companion}.with("X-Other: secret")).status == http.StatusServiceUnavailable
	if !d.Limits {
		<-arrived
	}
	checked := (<-checks).GetAttributes().GetRequest().GetHttp()
	_, other := checked.GetHeaders()["x-other"]
	for _, h := range checked.GetHeaderMap().GetHeaders() {
		other = other || h.GetKey() == "x-other"
	}
	d.OwnHeaders = !other

	without := env.meshProxy(t, m, version, env.socket("missing"), "tcp://"+upstream.addr)
	d.GRPCWithout = without.do(t, request{path: companion, http2: true}.with("Content-Type: application/grpc")).header.Get("Grpc-Status")

	withoutKeyd := env.meshProxy(t, m, version, m.authzd(t, env), "", func(config map[string]any) {
		for _, c := range config["static_resources"].(map[string]any)["clusters"].([]any) {
			c := c.(map[string]any)
			if strings.Contains(fmt.Sprint(c["load_assignment"]), env.Socket("owners")) {
				static(t, c, env.socket("missing"))
			}
		}
	})
	got := withoutKeyd.do(t, owner(withoutKeyd, request{path: "/api/v1/me/keys"}))
	d.KeydJSON = got.status == http.StatusServiceUnavailable && got.body == noKeyd.body()
	if got.reached() || got.status < 500 {
		t.Errorf("without keyd: %d %s", got.status, got.body)
	}
	return d
}
