package schema_test

import (
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/k8s/schema"
)

func TestMonitoring(t *testing.T) {
	kinds, err := schema.Monitoring()
	if err != nil {
		t.Fatal(err)
	}
	monitor := func(spec map[string]any) map[string]any {
		return map[string]any{
			"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
			"metadata": map[string]any{"name": "m", "namespace": "n"}, "spec": spec,
		}
	}
	selector := map[string]any{"matchLabels": map[string]any{"a": "b"}}
	for want, spec := range map[string]map[string]any{
		"":                       {"selector": selector, "podMetricsEndpoints": []any{map[string]any{"port": "http", "interval": "15s"}}},
		"spec.podMetricEndpoint": {"selector": selector, "podMetricEndpoint": []any{}},
		"spec.selector":          {"podMetricsEndpoints": []any{}},
		"interval":               {"selector": selector, "podMetricsEndpoints": []any{map[string]any{"interval": "often"}}},
	} {
		if err := kinds.Validate(monitor(spec)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error about %q", spec, err, want)
		}
	}
}
