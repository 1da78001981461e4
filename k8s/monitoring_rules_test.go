package k8s

import (
	"maps"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

// metrics are the pages by the name of their port.
var metrics = map[string]string{"authzd-admin": "/metrics", "keyd-admin": "/metrics", "envoy-monitor": "/stats/prometheus"}

// monitors checks, if there are PodMonitors, that they select each port with metrics, and that the NetworkPolicies let Prometheus
// reach it.
func monitors(m *manifests, report report) {
	if len(m.podMonitors) == 0 {
		return
	}
	missing := map[string]string{} // page by "POD/PORT"
	for _, p := range m.pods() {
		for _, c := range p.containers() {
			for _, port := range c.Ports {
				if page := metrics[port.Name]; page != "" {
					missing[p.name+"/"+port.Name] = page
				}
			}
		}
	}
	all := maps.Clone(missing)
	for _, monitor := range m.podMonitors {
		for _, p := range m.pods() {
			if !selects(&monitor.Spec.Selector, p.template.Labels) {
				continue
			}
			for _, endpoint := range monitor.Spec.PodMetricsEndpoints {
				if endpoint.Port == nil || all[p.name+"/"+*endpoint.Port] != endpoint.Path {
					report("PodMonitor "+monitor.Name, "has no page of %s at %v%s", p.name, endpoint.Port, endpoint.Path)
					continue
				}
				delete(missing, p.name+"/"+*endpoint.Port)
				port := portNumber(p, *endpoint.Port)
				if !m.ingressAllowed(peer{named("prometheus"), monitoring}, labels.Set(p.template.Labels), port) {
					report("PodMonitor "+monitor.Name, "Prometheus cannot reach port %d of %s", port, p.name)
				}
			}
		}
	}
	for port := range missing {
		report(port, "no PodMonitor selects it")
	}
}

// portNumber returns the number of a named port, 0 if the Pod does not have it.
func portNumber(p pod, name string) int32 {
	for _, c := range p.containers() {
		for _, port := range c.Ports {
			if port.Name == name {
				return port.ContainerPort
			}
		}
	}
	return 0
}

// With the module, one container has both ports of the gateway.
func TestMetricsPortsExist(t *testing.T) {
	for _, folder := range []string{demo(t), moduleOverlay(t)} {
		m := load(t, folder)
		for port := range metrics {
			pod := "gateway"
			if strings.HasPrefix(port, "keyd") {
				pod = "keyd"
			}
			if portNumber(m.mustPod(t, pod), port) == 0 {
				t.Errorf("%s: %s has no port %s", folder, pod, port)
			}
		}
	}
}
