package k8s

import "testing"

// envoyConfig is the part of envoy.yaml that the rules check.
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
		Clusters []envoyCluster
	} `yaml:"static_resources"`
}

type envoyCluster struct {
	Name            string
	TransportSocket struct {
		TypedConfig struct {
			Type   string `yaml:"@type"`
			SNI    string
			Common map[string]any `yaml:"common_tls_context"`
		} `yaml:"typed_config"`
	} `yaml:"transport_socket"`
}

// envoy returns Envoy's deployed configuration.
func (m *manifests) envoy(report report) (config envoyConfig) {
	readYAML(m, "envoy.yaml", &config, report)
	return config
}

// heapFits checks that Envoy rejects requests before it reaches the memory limit of its container, in bytes. A quarter of the
// limit is for memory that the allocator has not yet returned.
func heapFits(config envoyConfig, limit int64, report report) {
	heap := int64(0)
	for _, monitor := range config.Overload.Monitors {
		if monitor.Name == "envoy.resource_monitors.fixed_heap" {
			heap = monitor.Config.Heap
		}
	}
	if heap <= 0 || heap > limit/4*3 {
		report("envoy.yaml", "max_heap_size_bytes is %d: must be positive and at most three quarters of the memory limit %d", heap, limit)
	}
}

func envoyMemory(m *manifests, p pod, report report) {
	heapFits(m.envoy(report), p.container("envoy").Resources.Limits.Memory().Value(), report)
}

// envoyListeners checks that Envoy listens on IPv4 and IPv6.
func envoyListeners(m *manifests, report report) {
	for _, l := range m.envoy(report).Static.Listeners {
		if at := l.Address.Socket; at.Address != "::" || !at.Both {
			report("envoy.yaml", `the address of listener %s is %q: must be "::" with ipv4_compat`, l.Name, at.Address)
		}
	}
}

func TestComposeEnvoyMemory(t *testing.T) {
	limit := int64(composeProject(t, "../compose.yaml").Services["envoy"].MemLimit)
	report := func(where, format string, args ...any) { t.Errorf(where+": "+format, args...) }
	heapFits(load(t, "base").envoy(report), limit, report)
}
