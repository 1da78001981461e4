package k8s

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	corev1 "k8s.io/api/core/v1"
)

// httpFilter is the part of an HTTP filter that the rules of the module check.
type httpFilter struct {
	Name   string
	Config struct {
		Filter struct {
			Value map[string]any
		} `yaml:"filter_config"`
	} `yaml:"typed_config"`
}

// httpFilters returns the HTTP filters of the first listener in the deployed envoy.yaml.
func (m *manifests) httpFilters(report report) []httpFilter {
	var config struct {
		Static struct {
			Listeners []struct {
				Chains []struct {
					Filters []struct {
						Config struct {
							HTTP []httpFilter `yaml:"http_filters"`
						} `yaml:"typed_config"`
					}
				} `yaml:"filter_chains"`
			}
		} `yaml:"static_resources"`
	}
	readYAML(m, "envoy.yaml", &config, report)
	for _, l := range config.Static.Listeners {
		for _, chain := range l.Chains {
			for _, f := range chain.Filters {
				return f.Config.HTTP
			}
		}
	}
	return nil
}

// moduleInEnvoy checks that Envoy checks requests itself: with the module of its image, never with one that it fetches, because it
// lets requests pass until it has it. The probes ask the module.
func moduleInEnvoy(m *manifests, p pod, report report) {
	if len(p.containers()) != 1 {
		report("gateway", "must have one container: Envoy with the module")
	}
	envoy := p.container("envoy")
	if !strings.Contains(envoy.Image, "envoy-module:") {
		report("gateway/envoy", "image %q is not Envoy with the module", envoy.Image)
	}
	filters := m.httpFilters(report)
	i := slices.IndexFunc(filters, func(f httpFilter) bool { return f.Name == "phantom_authz" })
	if i < 0 || slices.ContainsFunc(filters, func(f httpFilter) bool { return strings.Contains(f.Name, "ext_authz") }) {
		report("envoy.yaml", "must have the filter phantom_authz in place of ext_authz")
		return
	}
	config := filters[i].Config
	for _, found := range lintEnvoy(m) {
		report("envoy.yaml", "%s", found)
	}
	file, _ := config.Filter.Value["config_file"].(string)
	mounted := slices.ContainsFunc(envoy.VolumeMounts, func(mount corev1.VolumeMount) bool {
		return mount.Name == "authzd" && mount.ReadOnly && filepath.Join(mount.MountPath, "authzd.yaml") == file
	})
	if !mounted {
		report("envoy.yaml", "config_file %q must be authzd.yaml of the volume authzd, mounted read-only", file)
	}
	if probePath(envoy.ReadinessProbe) != "/readyz" || probePath(envoy.LivenessProbe) != "/livez" || probePort(envoy.ReadinessProbe) != "authzd-admin" {
		report("gateway/envoy", "readinessProbe and livenessProbe must request /readyz and /livez of the module")
	}
	if goMemLimit(*envoy) == "" {
		report("gateway/envoy", "missing GOMEMLIMIT: the module would take memory up to the limit of the container")
	}
}

// moduleFile checks that the module has authzd's configuration without a listener for checks.
func moduleFile(m *manifests, report report) {
	var module map[string]any
	readYAML(m, "authzd.yaml", &module, report)
	listen, _ := module["listen"].(map[string]any)
	if listen["check"] != nil || listen["admin"] == nil {
		report("authzd.yaml", "must have listen.admin and no listen.check: the module has no listener for checks")
	}
}

// modulePatches and moduleEdits are mistakes in the overlay module.
var modulePatches = []patch{
	{"authzd beside the module", "Deployment gateway", "module", `add POD/initContainers [{"name":"authzd","image":"phantom-authz:dev"}]`},
	{"image without the module", "Deployment gateway", "module", `replace MAIN/image "envoyproxy/envoy:v1.40.0"`},
	{"readiness of the listener", "Deployment gateway", "module", `replace MAIN/readinessProbe {"tcpSocket":{"port":"http"}}`},
	{"liveness of the listener", "Deployment gateway", "module", `replace MAIN/livenessProbe {"tcpSocket":{"port":"http"}}`},
	{"start without a listener", "Deployment gateway", "probes", `replace MAIN/startupProbe {"httpGet":{"path":"/readyz","port":"authzd-admin"}}`},
	{"configuration at another path", "Deployment gateway", "module", `replace MAIN/volumeMounts/0/mountPath "/etc/authzd"`},
	{"writable configuration", "Deployment gateway", "module", `remove MAIN/volumeMounts/0/readOnly`},
	{"no GOMEMLIMIT", "Deployment gateway", "module", `remove MAIN/env`},
	{"module without memory of its own", "Deployment gateway", "envoy-memory", `replace MAIN/resources/limits/memory "1Gi"`},
	{"operator's token in the gateway", "Deployment gateway", "secret-access", `add POD/volumes/0/projected/sources/- {"secret":{"name":"operator-tokens"}}`},
	{"token for all users", "Deployment gateway", "secrets", `remove POD/volumes/0/projected/defaultMode`},
	{"grace period too short", "Deployment gateway", "gateway-rollout", `replace POD/terminationGracePeriodSeconds 10`},
}

var moduleEdits = []edit{
	{"listener for checks", "authzd", "module-file", "authzd.yaml", "listen:", "listen:\n  check: [unix:///tmp/authz.sock]"},
	{"no admin listener", "authzd", "module-file", "authzd.yaml", "  admin:", "  other:"},
	{"key API without TLS", "authzd", "mutual-tls", "authzd.yaml", "https://", "http://"},
	{"remote module", "envoy", "module", "envoy.yaml", "do_not_close: true", "do_not_close: true\n                                module: {remote: {sha256: a}}"},
	{"module that is closed", "envoy", "module", "envoy.yaml", "do_not_close: true", "do_not_close: false"},
	{"no check", "envoy", "module", "envoy.yaml", "- name: phantom_authz", "- name: other"},
	{"configuration differs from the repository", "envoy", "configuration", "envoy.yaml", "config_file:", "config_file: # other\n   "},
	{"configuration of another file", "envoy", "module", "envoy.yaml", "/etc/phantom-authz/authzd.yaml", "/etc/phantom/authzd.yaml"},
}

func TestRulesDetectMutationsOfModule(t *testing.T) {
	withModule.detects(t, kustomize(t, moduleOverlay(t)), modulePatches, moduleEdits)
}

// The module's configuration is authzd's without the listener for checks.
func TestModuleHasConfigurationOfAuthzd(t *testing.T) {
	report := func(where, format string, args ...any) { t.Errorf(where+": "+format, args...) }
	var authzd, module map[string]any
	readYAML(load(t, "base"), "authzd.yaml", &authzd, report)
	readYAML(load(t, moduleOverlay(t)), "authzd.yaml", &module, report)
	delete(authzd["listen"].(map[string]any), "check")
	want, err := yaml.Marshal(authzd)
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(module)
	if err != nil || string(got) != string(want) {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}
