package k8s

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
)

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
			Address envoyAddress
		}
		Clusters []envoyCluster
	} `yaml:"static_resources"`
}

type envoyAddress struct {
	Socket struct {
		Address string
		Port    int  `yaml:"port_value"`
		Both    bool `yaml:"ipv4_compat"`
	} `yaml:"socket_address"`
}

type envoyCluster struct {
	Name string
	Type string
	Load struct {
		Endpoints []struct {
			Endpoints []struct {
				Endpoint struct{ Address envoyAddress }
			} `yaml:"lb_endpoints"`
		}
	} `yaml:"load_assignment"`
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

// heapFits checks that Envoy rejects requests before it reaches the memory limit of its container, in bytes, without the memory of
// the module. A quarter of the limit is for memory that the allocator has not yet returned.
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
	c := p.container("envoy")
	heapFits(m.envoy(report), c.Resources.Limits.Memory().Value()-moduleMemory(goMemLimit(*c)), report)
}

// moduleMemory returns the bytes of a container that are for the module: GOMEMLIMIT is 90% of them. It is 0 without the variable.
func moduleMemory(goMemLimit string) int64 {
	soft, err := resource.ParseQuantity(strings.TrimSuffix(goMemLimit, "B"))
	if err != nil {
		return 0
	}
	return soft.Value() * 10 / 9
}

// envoyListeners checks that Envoy listens on IPv4 and IPv6, on ports of its container.
func envoyListeners(m *manifests, p pod, report report) {
	for _, l := range m.envoy(report).Static.Listeners {
		at := l.Address.Socket
		if at.Address != "::" || !at.Both {
			report("envoy.yaml", `the address of listener %s is %q: must be "::" with ipv4_compat`, l.Name, at.Address)
		}
		if !hasPort(*p.container("envoy"), fmt.Sprint(at.Port)) {
			report("envoy.yaml", "listener %s is on port %d, which the container does not have", l.Name, at.Port)
		}
	}
}

func TestComposeEnvoyMemory(t *testing.T) {
	report := func(where, format string, args ...any) { t.Errorf(where+": "+format, args...) }
	for name, files := range composeVariants {
		envoy := composeProject(t, files).Services["envoy"]
		limit := int64(envoy.MemLimit)
		if soft := envoy.Environment["GOMEMLIMIT"]; soft != nil {
			limit -= moduleMemory(*soft)
		} else if name == "module" {
			t.Error("missing GOMEMLIMIT of the module")
		}
		heapFits(load(t, "base").envoy(report), limit, report)
	}
}
