package envoy_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	admin "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// TestShippedFileIsAccepted: every version takes the file as it is.
func TestShippedFileIsAccepted(t *testing.T) {
	for _, version := range versions() {
		program, err := envoy.Find(t.Context(), version, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		shipped, err := filepath.Abs("envoy.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, "--mode", "validate", "-c", shipped).CombinedOutput(); err != nil {
			t.Errorf("Envoy %s: %v\n%s", version, err, out)
		}
	}
}

// TestShippedFileIsWhatRuns asks every running Envoy what it runs, and compares
// that with envoy.yaml, addresses aside.
func TestShippedFileIsWhatRuns(t *testing.T) {
	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document := decode(t, text)
	redact(document)
	body, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	shipped := new(bootstrap.Bootstrap)
	if err := protojson.Unmarshal(body, shipped); err != nil {
		t.Fatal(err)
	}
	blank(shipped)
	onEachVersion(t, func(t *testing.T, f *front) {
		running := f.bootstrap(t)
		blank(running)
		if diff := cmp.Diff(shipped, running, protocmp.Transform()); diff != "" {
			t.Errorf("the running configuration is not envoy.yaml (-shipped +running):\n%s", diff)
		}
	})
}

// redact does what Envoy does when it shows its configuration: of context extensions
// the names only. What they say is seen by TestRoutes.
func redact(value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			if extensions, ok := inner.(map[string]any); ok && name == "context_extensions" {
				for name := range extensions {
					extensions[name] = "[redacted]"
				}
			}
			redact(inner)
		}
	case []any:
		for _, inner := range value {
			redact(inner)
		}
	}
}

func (f *front) bootstrap(t *testing.T) *bootstrap.Bootstrap {
	t.Helper()
	response, err := http.Get("http://" + f.admin + "/config_dump")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var dump struct{ Configs []json.RawMessage }
	if err := json.Unmarshal(body, &dump); err != nil {
		t.Fatal(err)
	}
	options := protojson.UnmarshalOptions{DiscardUnknown: true}
	for _, config := range dump.Configs {
		var found admin.BootstrapConfigDump
		var kind struct {
			Type string `json:"@type"`
		}
		if json.Unmarshal(config, &kind) != nil || kind.Type != "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump" {
			continue
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(config, &fields); err != nil {
			t.Fatal(err)
		}
		delete(fields, "@type")
		plain, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if err := options.Unmarshal(plain, &found); err != nil {
			t.Fatal(err)
		}
		return found.GetBootstrap()
	}
	t.Fatal("the dump holds no bootstrap configuration")
	return nil
}

// blank takes away what Render may change, and what Envoy adds about itself.
func blank(b *bootstrap.Bootstrap) {
	b.Node = nil
	b.Admin.Address = nil
	for _, l := range b.GetStaticResources().GetListeners() {
		l.Address, l.AdditionalAddresses = nil, nil
	}
	for _, c := range b.GetStaticResources().GetClusters() {
		c.ClusterDiscoveryType, c.DnsLookupFamily = nil, clusterv3.Cluster_AUTO
		c.LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint().Address = nil
	}
}
