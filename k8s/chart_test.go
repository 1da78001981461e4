package k8s

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	"helm.sh/helm/v4/pkg/chart/v2/lint"

	"github.com/phantomrouter/phantom-authz/k8s/helm"
)

func mustTemplate(t *testing.T, release string, values map[string]any) []map[string]any {
	t.Helper()
	text, err := helm.Template("chart", release, values)
	if err != nil {
		t.Fatal(err)
	}
	docs := documents(t, text)
	return slices.DeleteFunc(docs, func(doc map[string]any) bool { return len(doc) == 0 })
}

// The chart and the base are two ways to the same objects. The chart has no Namespace and no policy for all Pods of it, because a
// release does not own its namespace. Labels differ, and how a changed configuration causes a rollout.
func TestChartRendersBase(t *testing.T) {
	for _, test := range []struct {
		store, components string
	}{
		{"sqlite", "[../../components/monitoring]"},
		{"postgres", "[../../components/postgres, ../../components/monitoring]"},
	} {
		t.Run(test.store, func(t *testing.T) {
			values := map[string]any{"namePrefix": "", "podMonitors": true, "keyd": map[string]any{"store": test.store}}
			chart := contents(t, mustTemplate(t, "x", values))
			base := contents(t, documents(t, kustomize(t, overlay(t, "resources: [../../base]\ncomponents: "+test.components+"\n"))))
			delete(base, "Namespace phantom")
			delete(base, "NetworkPolicy default-deny")
			for _, name := range slices.Sorted(maps.Keys(base)) {
				if chart[name] != base[name] {
					t.Errorf("%s differs\nchart: %s\n base: %s", name, chart[name], base[name])
				}
				delete(chart, name)
			}
			for name := range chart {
				t.Errorf("%s is in the chart only", name)
			}
		})
	}
}

var hashed = regexp.MustCompile(`^(envoy|authzd|keyd)-[0-9a-z]{10}$`)

// contents returns the objects as JSON by kind and name, without what may differ.
func contents(t *testing.T, docs []map[string]any) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, doc := range docs {
		meta := doc["metadata"].(map[string]any)
		delete(meta, "labels")
		delete(meta, "namespace")
		text, err := json.Marshal(simplify(t, doc))
		if err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprint(doc["kind"], " ", meta["name"])] = string(text)
	}
	return all
}

// simplify removes the labels and annotations of one way, hashes of names, and the form of the files.
func simplify(t *testing.T, value any) any {
	t.Helper()
	switch v := value.(type) {
	case map[string]any:
		for key, part := range v {
			text, isText := part.(string)
			switch {
			case strings.HasPrefix(key, "app.kubernetes.io/") && key != "app.kubernetes.io/name", strings.HasPrefix(key, "helm.sh/"), key == "imagePullPolicy":
				delete(v, key)
			case key == "annotations":
				delete(v, key)
			case strings.HasSuffix(key, ".yaml") && isText:
				var file any
				if err := yaml.Unmarshal([]byte(text), &file); err != nil {
					t.Fatalf("%s: %v", key, err)
				}
				v[key] = file
			case key == "name" && isText && hashed.MatchString(text):
				v[key] = hashed.FindStringSubmatch(text)[1]
			case key == "type" && text == "ClusterIP": // the default
				delete(v, key)
			default:
				v[key] = simplify(t, part)
				if labels, ok := v[key].(map[string]any); ok && key == "matchLabels" && len(labels) == 0 {
					delete(v, key)
				}
			}
		}
	case []any:
		for i := range v {
			v[i] = simplify(t, v[i])
		}
	}
	return value
}

// A release's name is part of all names, and of the addresses in the configurations.
func TestChartNamesFollowRelease(t *testing.T) {
	docs := mustTemplate(t, "blue", nil)
	services := map[string]bool{}
	for _, doc := range docs {
		name := doc["metadata"].(map[string]any)["name"].(string)
		if !strings.HasPrefix(name, "blue-") {
			t.Errorf("%s %s does not begin with blue-", doc["kind"], name)
		}
		if doc["kind"] == "Service" {
			services[name] = true
		}
	}
	m, err := decode(docs)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"address: blue-keyd, port_value: 8083", "https://blue-keyd:8080"} {
		if files := m.files(); !strings.Contains(files["envoy.yaml"]+files["authzd.yaml"], want) {
			t.Errorf("no configuration has %s", want)
		}
	}
	if !services["blue-keyd"] || !services["blue-gateway"] {
		t.Errorf("Services: %v", services)
	}
}

func TestChartPassesLint(t *testing.T) {
	for _, m := range lint.RunAll("chart", nil, "phantom").Messages {
		if m.Severity > 1 || !strings.Contains(m.Error(), "icon is recommended") { // 1: information
			t.Error(m)
		}
	}
}

// A mistake in the values is an error that names the field.
func TestChartRejectsValues(t *testing.T) {
	for _, test := range []struct{ values, field string }{
		{`gatway: {replicas: 3}`, "gatway"},
		{`gateway: {replicas: 0}`, "/gateway/replicas"},
		{`gateway: {replicas: two}`, "/gateway/replicas"},
		{`gateway: {authzd: {config: {listen: {}}}}`, "/gateway/authzd/config"},
		{`gateway: {authzd: {memoryLimit: 230Mi}}`, "/gateway/authzd/memoryLimit"},
		{`keyd: {store: mysql}`, "/keyd/store"},
		{`keyd: {postgres: {url: "postgres://keyd:secret@db/keys"}}`, "/keyd/postgres/url"},
		{`keyd: {operators: []}`, "/keyd/operators"},
		{`keyd: {storage: {size: big}}`, "/keyd/storage/size"},
		{`upstream: {host: "http://x", port: 80}`, "/upstream/host"},
		{`image: {repository: x, tag: 1}`, "/image/tag"},
		{`networkPolicies: "yes"`, "/networkPolicies"},
	} {
		var values map[string]any
		if err := yaml.Unmarshal([]byte(test.values), &values); err != nil {
			t.Fatal(err)
		}
		if _, err := helm.Template("chart", "x", values); err == nil || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s: the error is %v, without %s", test.values, err, test.field)
		}
	}
}

// The chart cannot read files outside of its folder, so it has copies.
func TestChartHasFilesOfBase(t *testing.T) {
	for _, name := range []string{"envoy.yaml", "sds-ca.yaml", "sds-certificate.yaml"} {
		want, err := os.ReadFile(filepath.Join("base", "config", name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join("chart", "files", name)); err != nil || string(got) != string(want) {
			t.Errorf("chart/files/%s is not base/config/%s: run `go generate` (%v)", name, name, err)
		}
	}
}
