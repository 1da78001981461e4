// Package repo tests the repository as a whole: the layers of its packages, what its programs link, its documentation
// and its Makefile.
package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/phantomrouter/phantom-authz/"

// layers maps each package to its layer. A package imports from lower layers only, so that a change in one layer affects
// the layers above it alone.
var layers = map[string]int{
	"pkg/credential": 0, "pkg/telemetry": 0,
	"pkg/secretfile": 1, "pkg/policy": 1, "pkg/keystore": 1,
	"pkg/httpapi": 2, "pkg/daemon": 2, "pkg/config": 3, "pkg/tracing": 3,
	"pkg/keystore/storetest": 2, "pkg/keystore/internal/sqlstore": 2,
	"pkg/sidecarapi": 3, "pkg/operatorapi": 3, "pkg/keystore/sqlite": 3, "pkg/keystore/postgres": 3, "pkg/extauthz": 3,
	"pkg/keycache": 4, "pkg/usage": 4, "pkg/envoylint": 4, "pkg/explain": 4, "pkg/keyserver": 4, "pkg/extauthz/grpcserver": 4, "pkg/extauthz/envoymodule": 4, "pkg/extauthz/envoymodule/abi": 0, "pkg/extauthz/envoymodule/abi/fakeenvoy": 1,
	"pkg/sidecar": 5,
	"envoy":       4, "envoy/echo": 5, "envoy/render": 5,
	"internal/lossyproxy": 0, "internal/collector": 0, "internal/pgtest": 2, "internal/testbed": 4, "internal/loadgen": 5, "faults": 5,
	"bench/result": 0, "bench": 5, "bench/revoke": 6, "bench/check": 6, "bench/flood": 6, "bench/scale": 6, "bench/envoy": 6, "bench/report": 6, "bench/size": 6, "bench/change": 6, "bench/dashboard": 6,
	"cmd/authzd": 6, "cmd/module": 6, "cmd/keyd": 5, "cmd/keyctl": 5, "cmd/demo": 5,
}

// otelSDK is the SDK of OpenTelemetry, which pkg/tracing links.
const (
	otelSDK        = "go.opentelemetry.io/otel/sdk"
	spansElsewhere = "it makes spans with the API; pkg/tracing exports them"
)

// forbidden lists what a package must not link, directly or indirectly, and why.
var forbidden = []struct{ pkg, prefix, why string }{
	{"cmd/authzd", "modernc.org/", "the sidecar has no database"},
	{"cmd/authzd", "github.com/jackc/pgx", "the sidecar has no database"},
	{"cmd/authzd", "github.com/mattn/go-sqlite3", "the sidecar has no database"},
	{"cmd/authzd", module + "pkg/keystore", "the sidecar gets facts from the key API only"},
	{"cmd/keyctl", module + "pkg/keystore", "keyctl uses the operator API only"},
	{"cmd/authzd", "github.com/envoyproxy/envoy/", "the sidecar links no cgo: the SDK of modules is the Envoy module's"},
	{"cmd/module", "google.golang.org/grpc", "the module serves no gRPC"},
	{"cmd/module", module + "pkg/keystore", "the module gets facts from the key API only"},
	{"cmd/keyd", "github.com/envoyproxy", "the key API is independent of Envoy"},
	{"cmd/keyd", "github.com/getkin", "only tests use the OpenAPI document"},
	{"cmd/keyctl", "github.com/getkin", "only tests use the OpenAPI document"},
	{"cmd/authzd", "github.com/getkin", "only tests use the OpenAPI document"},
	{"cmd/authzd", "github.com/santhosh-tekuri", "only tests validate against a schema"},
	{"cmd/keyd", "github.com/santhosh-tekuri", "only tests validate against a schema"},
	{"cmd/keyctl", "github.com/santhosh-tekuri", "only tests validate against a schema"},
	{"pkg/extauthz", "github.com/envoyproxy", "the core is independent of the transport"},
	{"pkg/extauthz", "google.golang.org/grpc", "the core is independent of the transport"},
	{"pkg/extauthz", "google.golang.org/protobuf", "the core is independent of the transport (prometheus links protobuf for its metrics)"},
	{"pkg/policy", "net", "a decision does no I/O"},
	{"pkg/policy", "os", "a decision does no I/O"},
	{"pkg/extauthz", otelSDK, spansElsewhere},
	{"pkg/extauthz/grpcserver", otelSDK, spansElsewhere},
	{"pkg/keycache", otelSDK, spansElsewhere},
	{"pkg/policy", "go.opentelemetry.io", "a decision does no I/O"},
	{"pkg/keyserver", otelSDK, spansElsewhere},
	{"pkg/sidecar", otelSDK, spansElsewhere},
	{"cmd/module", otelSDK, "the module has no spans"},
	{"cmd/keyctl", otelSDK, "keyctl has no spans"},
	{"pkg/daemon", module + "pkg/policy", "process management is independent of the domain"},
}

// direct lists the prefixes of forbidden that apply to a package's own imports only, because its dependencies import
// them too.
var direct = []string{"google.golang.org/protobuf", "net", "os"}

type goPackage struct {
	ImportPath    string
	Imports, Deps []string
}

func packages(t *testing.T) map[string]goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]goPackage{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath != strings.TrimSuffix(module, "/") {
			all[strings.TrimPrefix(p.ImportPath, module)] = p
		}
	}
}

func TestPackagesImportLowerLayersOnly(t *testing.T) {
	all := packages(t)
	for name, p := range all {
		layer, ok := layers[name]
		if !ok {
			t.Errorf("%s has no layer: add it to layers", name)
			continue
		}
		for _, imported := range p.Imports {
			lower, own := strings.CutPrefix(imported, module)
			if !own {
				continue
			}
			if layers[lower] >= layer {
				t.Errorf("%s (layer %d) imports %s (layer %d)", name, layer, lower, layers[lower])
			}
			if lower == "pkg/config" && name != "pkg/sidecar" && !strings.HasPrefix(name, "cmd/") {
				t.Errorf("%s imports pkg/config: only commands and what wires them do, and pass each package what it needs", name)
			}
		}
	}
	for name := range layers {
		if _, ok := all[name]; !ok {
			t.Errorf("%s is in layers, but not in the tree", name)
		}
	}
}

func TestForbiddenDependencies(t *testing.T) {
	all := packages(t)
	for _, f := range forbidden {
		deps := all[f.pkg].Deps
		if slices.Contains(direct, f.prefix) {
			deps = all[f.pkg].Imports
		}
		for _, dep := range deps {
			if dep == f.prefix || strings.HasPrefix(dep, strings.TrimSuffix(f.prefix, "/")+"/") {
				t.Errorf("%s links %s: %s", f.pkg, dep, f.why)
			}
		}
	}
}

// TestCredentialUsesTheStandardLibraryOnly: every package imports credential, so it must not add dependencies.
func TestCredentialUsesTheStandardLibraryOnly(t *testing.T) {
	for _, dep := range packages(t)["pkg/credential"].Deps {
		if first, _, _ := strings.Cut(dep, "/"); strings.Contains(first, ".") && !strings.HasPrefix(dep, module) {
			t.Errorf("pkg/credential links %s", dep)
		}
	}
}
