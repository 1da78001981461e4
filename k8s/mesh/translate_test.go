//go:build mesh

package mesh

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// overlay builds an overlay and appends documents. It returns the file.
func overlay(t *testing.T, name string, more ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".yaml")
	if err := os.WriteFile(file, []byte(strings.Join(append([]string{buildOverlay(t, name)}, more...), "\n---\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// upstream is the Service that an installation adds.
const upstream = `apiVersion: v1
kind: Service
metadata: {name: upstream, namespace: phantom}
spec:
  clusterIP: 10.0.0.9
  ports: [{name: http, port: 8080}]
`

func TestIstioctlAcceptsOverlays(t *testing.T) {
	istioctl := build(t, istio, istioVersion, "./istioctl/cmd/istioctl")
	for _, name := range []string{"istio", "istio-envoyfilter"} {
		run(t, istioctl, "validate", "-f", overlay(t, name, upstream))
		run(t, istioctl, "analyze", "--use-kube=false", overlay(t, name, upstream))
	}
}

func TestIstiodTranslatesOverlays(t *testing.T) {
	source, err := filepath.Abs("istio.go")
	if err != nil {
		t.Fatal(err)
	}
	translate := build(t, istio, istioVersion, source)
	for _, name := range []string{"istio", "istio-envoyfilter"} {
		out := filepath.Join(t.TempDir(), "out.yaml")
		run(t, translate, "../overlays/istio/mesh-config.yaml", overlay(t, name, upstream), out)
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		var resources struct{ Listeners, Routes, Clusters []map[string]any }
		if err := yaml.Unmarshal(text, &resources); err != nil {
			t.Fatal(err)
		}
		services := map[string]string{}
		for _, c := range resources.Clusters { // outbound|PORT||NAME.NAMESPACE…
			parts := strings.Split(c["name"].(string), "|")
			if len(parts) == 4 {
				service, _, _ := strings.Cut(parts[3], ".")
				services[c["name"].(string)] = service + ":" + parts[1]
			}
		}
		compare(t, name, translation{resources.Listeners[0], resources.Routes[0], resources.Clusters, services})
	}
}

func TestEgctlTranslatesOverlay(t *testing.T) {
	egctl := build(t, gateway, gatewayVersion(t), "./cmd/egctl")
	text := run(t, egctl, "experimental", "translate", "--from", "gateway-api", "--to", "xds", "-t", "all", "--add-missing-resources",
		"-f", overlay(t, "envoy-gateway", upstream, installed(t)))
	var dump struct {
		XDS map[string]struct {
			Configs []struct {
				Listeners []struct {
					Active struct{ Listener map[string]any } `yaml:"activeState"`
				} `yaml:"dynamicListeners"`
				Routes []struct {
					Config map[string]any `yaml:"routeConfig"`
				} `yaml:"dynamicRouteConfigs"`
				Clusters  []struct{ Cluster map[string]any } `yaml:"dynamicActiveClusters"`
				Endpoints []struct {
					Config assignment `yaml:"endpointConfig"`
				} `yaml:"dynamicEndpointConfigs"`
			}
		}
	}
	if err := yaml.Unmarshal(text, &dump); err != nil {
		t.Fatal(err)
	}
	got := translation{Services: map[string]string{}}
	for _, config := range dump.XDS["phantom/api"].Configs {
		for _, l := range config.Listeners {
			if l.Active.Listener["name"] == "phantom/api/https" {
				got.Listener = l.Active.Listener
			}
		}
		for _, r := range config.Routes {
			got.Routes = r.Config
		}
		for _, c := range config.Clusters {
			got.Clusters = append(got.Clusters, c.Cluster)
		}
		for _, e := range config.Endpoints {
			got.Services[e.Config.Cluster] = e.Config.service()
		}
	}
	compare(t, "envoy-gateway", got)
}

// assignment is the part of a ClusterLoadAssignment of Envoy Gateway that names the Service.
type assignment struct {
	Cluster   string `yaml:"clusterName"`
	Endpoints []struct {
		Metadata struct {
			Filter struct {
				Gateway struct {
					Resources []struct{ Name, SectionName string }
				} `yaml:"envoy-gateway"`
			} `yaml:"filterMetadata"`
		}
	}
}

func (a assignment) service() string {
	of := a.Endpoints[0].Metadata.Filter.Gateway.Resources[0]
	return of.Name + ":" + of.SectionName
}

// translation is what a mesh sends to its Envoys. Services has the Kubernetes Service of each cluster.
type translation struct {
	Listener map[string]any
	Routes   map[string]any
	Clusters []map[string]any
	Services map[string]string
}

// compare compares a translation with the file that the tests of ../../envoy run.
func compare(t *testing.T, name string, got translation) {
	t.Helper()
	for _, resource := range append(got.Clusters, got.Listener, got.Routes) {
		delete(resource, "@type") // egctl prints a dump of Any messages
	}
	slices.SortFunc(got.Clusters, func(a, b map[string]any) int { return strings.Compare(a["name"].(string), b["name"].(string)) })
	text, err := yaml.Marshal(snakeCase(map[string]any{
		"listener": got.Listener, "routes": got.Routes, "clusters": got.Clusters, "services": got.Services,
	}))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(golden, name+".yaml")
	text = append([]byte(header(t, name)), text...)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if old, err := os.ReadFile(file); err != nil || !bytes.Equal(old, text) {
		t.Errorf("%s is not the translation of the overlay: run UPDATE=1 make test-mesh (%v)", file, err)
	}
}

var capital = regexp.MustCompile(`[a-z0-9][A-Z]`)

// snakeCase returns a copy with the names of fields as Envoy's documentation has them; egctl prints them in camel case.
func snakeCase(value any) any {
	switch value := value.(type) {
	case map[string]any:
		renamed := map[string]any{}
		for name, inner := range value {
			if !strings.ContainsAny(name, "./") { // not the name of an extension
				name = capital.ReplaceAllStringFunc(name, func(s string) string { return s[:1] + "_" + strings.ToLower(s[1:]) })
			}
			renamed[name] = snakeCase(inner)
		}
		return renamed
	case []map[string]any:
		var list []any
		for _, inner := range value {
			list = append(list, snakeCase(inner))
		}
		return list
	case []any:
		list := slices.Clone(value)
		for i := range list {
			list[i] = snakeCase(list[i])
		}
		return list
	}
	return value
}
