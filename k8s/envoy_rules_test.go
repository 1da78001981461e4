package k8s

import (
	"testing"

	"go.yaml.in/yaml/v3"
)

// envoyConfig is what rules need of an envoy.yaml.
type envoyConfig struct {
	Overload struct {
		Monitors []struct {
			Name   string
			Config struct {
				Heap int64 `yaml:"max_heap_size_bytes"`
			} `yaml:"typed_config"`
		} `yaml:"resource_monitors"`
	} `yaml:"overload_manager"`
	Static struct {
		Listeners []struct {
			Name    string
			Address struct {
				Socket struct {
					Address string
					Both    bool `yaml:"ipv4_compat"`
				} `yaml:"socket_address"`
			}
		}
	} `yaml:"static_resources"`
}

func readEnvoy(text string, report report) envoyConfig {
	var config envoyConfig
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		report("envoy.yaml", "%v", err)
	}
	return config
}

// heapFits: Envoy refuses work before it reaches the memory limit of its container, in bytes. A quarter of the limit is left
// for what the allocator has not returned yet.
func heapFits(config envoyConfig, limit int64, report report) {
	heap := int64(0)
	for _, monitor := range config.Overload.Monitors {
		if monitor.Name == "envoy.resource_monitors.fixed_heap" {
			heap = monitor.Config.Heap
		}
	}
	if heap <= 0 || heap > limit/4*3 {
		report("envoy.yaml", "fixed_heap has %d bytes, must have some, and at most three quarters of the memory limit, %d", heap, limit)
	}
}

// envoyMemory is heapFits for the gateway.
func envoyMemory(m *manifests, report report) {
	if p, ok := m.pod("gateway", report); ok {
		heapFits(readEnvoy(m.files()["envoy.yaml"], report), p.container("envoy").Resources.Limits.Memory().Value(), report)
	}
}

// envoyListeners: clients reach Envoy over IPv4 and IPv6.
func envoyListeners(m *manifests, report report) {
	for _, l := range readEnvoy(m.files()["envoy.yaml"], report).Static.Listeners {
		if at := l.Address.Socket; at.Address != "::" || !at.Both {
			report("envoy.yaml", `listener %s is on %q, must be on "::" with ipv4_compat`, l.Name, at.Address)
		}
	}
}

func TestComposeEnvoyMemory(t *testing.T) {
	limit := int64(composeProject(t, "../compose.yaml").Services["envoy"].MemLimit)
	m, err := decode(documents(t, kustomize(t, "base")))
	if err != nil {
		t.Fatal(err)
	}
	report := func(where, format string, args ...any) { t.Errorf(where+": "+format, args...) }
	heapFits(readEnvoy(m.files()["envoy.yaml"], report), limit, report)
}
