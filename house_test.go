// Package house holds the tests of the house as a whole: which package may lean on
// which, and what the README says.
package house

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

// floors tells on which floor each package stands. A package imports from lower floors
// only, so a change upstairs breaks nothing downstairs.
var floors = map[string]int{
	"pkg/credential": 0,
	"pkg/secretfile": 1, "pkg/policy": 1, "pkg/keystore": 1,
	"pkg/sidecarapi": 2, "pkg/operatorapi": 2, "pkg/daemon": 2, "pkg/config": 3,
	"pkg/keystore/storetest": 2, "pkg/keystore/internal/sqlstore": 2,
	"pkg/keystore/sqlite": 3, "pkg/keystore/postgres": 3, "pkg/keycache": 3, "pkg/usage": 3, "pkg/extauthz": 3, "pkg/keyserver": 3,
	"pkg/extauthz/grpcserver": 4,
	"envoy":                   4, "envoy/echo": 5,
	"internal/pgtest": 2, "internal/testbed": 4, "internal/loadgen": 5, "faults": 5,
	"bench/revoke": 5, "bench/check": 5, "bench/flood": 5, "bench/scale": 5, "bench/sample": 0,
	"cmd/authzd": 5, "cmd/keyd": 5, "cmd/keyctl": 5, "cmd/demo": 5,
}

// forbidden says what a package must not link, however far away, and why.
var forbidden = []struct{ pkg, prefix, why string }{
	{"cmd/authzd", "modernc.org/", "the sidecar keeps no database"},
	{"cmd/authzd", "github.com/jackc/pgx", "the sidecar keeps no database"},
	{"cmd/authzd", "github.com/mattn/go-sqlite3", "the sidecar keeps no database"},
	{"cmd/authzd", module + "pkg/keystore", "the sidecar knows facts from the key API alone"},
	{"cmd/keyctl", module + "pkg/keystore", "the tool speaks to the operator API alone"},
	{"cmd/keyd", "github.com/envoyproxy", "the key API knows nothing of Envoy"},
	{"cmd/keyd", "github.com/getkin", "only tests compare with the OpenAPI document"},
	{"cmd/keyctl", "github.com/getkin", "only tests compare with the OpenAPI document"},
	{"cmd/authzd", "github.com/getkin", "only tests compare with the OpenAPI document"},
	{"pkg/extauthz", "github.com/envoyproxy", "the core knows no transport: fronts do"},
	{"pkg/extauthz", "google.golang.org/grpc", "the core knows no transport: fronts do"},
	{"pkg/extauthz", "google.golang.org/protobuf", "the core knows no transport: fronts do (prometheus has messages of its own)"},
	{"pkg/policy", "net", "a judge does no I/O"},
	{"pkg/policy", "os", "a judge does no I/O"},
	{"pkg/daemon", module + "pkg/policy", "the frame knows nothing of what the program does"},
}

// direct are those of forbidden that speak of a package's own imports, since what it
// leans on brings them along.
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

func TestImportsGoDown(t *testing.T) {
	all := packages(t)
	for name, p := range all {
		floor, ok := floors[name]
		if !ok {
			t.Errorf("%s stands on no floor: give it one in floors", name)
			continue
		}
		for _, imported := range p.Imports {
			lower, own := strings.CutPrefix(imported, module)
			if !own {
				continue
			}
			if floors[lower] >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d)", name, floor, lower, floors[lower])
			}
			if lower == "pkg/config" && !strings.HasPrefix(name, "cmd/") {
				t.Errorf("%s imports pkg/config: only commands do, and hand on what each package needs", name)
			}
		}
	}
	for name := range floors {
		if _, ok := all[name]; !ok {
			t.Errorf("%s is in floors and not in the tree", name)
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

// TestStandardLibraryAlone: the words that everything speaks in bring nothing along.
func TestStandardLibraryAlone(t *testing.T) {
	for _, dep := range packages(t)["pkg/credential"].Deps {
		if first, _, _ := strings.Cut(dep, "/"); strings.Contains(first, ".") && !strings.HasPrefix(dep, module) {
			t.Errorf("pkg/credential links %s", dep)
		}
	}
}
