package k8s

import (
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
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
	for _, monitor := range m.podMonitors {
		for _, endpoint := range monitor.Spec.PodMetricsEndpoints {
			if endpoint.Port == nil || !m.scraped(monitor, *endpoint.Port, endpoint.Path, missing, report) {
				report("PodMonitor "+monitor.Name, "selects no Pod with the page %s", endpoint.Path)
			}
		}
	}
	for port := range missing {
		report(port, "no PodMonitor selects it")
	}
}

// scraped removes the Pods that an endpoint selects from the missing ones, and reports whether there are any.
func (m *manifests) scraped(by *monitoringv1.PodMonitor, port, path string, missing map[string]string, report report) (any bool) {
	for _, p := range m.pods() {
		number := portNumber(p, port)
		if number == 0 || metrics[port] != path || !selects(&by.Spec.Selector, p.template.Labels) {
			continue
		}
		any = true
		delete(missing, p.name+"/"+port)
		if !m.ingressAllowed(peer{named("prometheus"), monitoring}, labels.Set(p.template.Labels), number) {
			report("PodMonitor "+by.Name, "Prometheus cannot reach port %d of %s", number, p.name)
		}
	}
	return any
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
