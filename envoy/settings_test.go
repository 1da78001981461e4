package envoy_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// settings are the bounds and protections of envoy.yaml, also those whose removal would have an effect only under load or
// after minutes.
var settings = map[string]string{
	"overload_manager.refresh_interval":                                                                      "0.1s",
	"overload_manager.buffer_factory_config.minimum_account_to_track_power_of_two":                           "15",
	"overload_manager.resource_monitors.fixed_heap.max_heap_size_bytes":                                      "629145600",
	"overload_manager.resource_monitors.global_downstream_max_connections.max_active_downstream_connections": "20000",
	"overload_manager.actions.shrink_heap.threshold.value":                                                   "0.5",
	"overload_manager.actions.reduce_timeouts.scaled.scaling_threshold":                                      "0.5",
	"overload_manager.actions.reduce_timeouts.timer_scale_factors.HTTP_DOWNSTREAM_STREAM_FLUSH":              "1s",
	"overload_manager.actions.reduce_timeouts.timer_scale_factors.HTTP_DOWNSTREAM_CONNECTION_IDLE":           "10s",
	"overload_manager.actions.disable_http_keepalive.threshold.value":                                        "0.85",
	"overload_manager.actions.reset_high_memory_stream.scaled.scaling_threshold":                             "0.8",
	"overload_manager.actions.stop_accepting_requests.threshold.value":                                       "0.9",
	"overload_manager.actions.stop_accepting_connections.threshold.value":                                    "0.95",
	"overload_manager.loadshed_points.http2_server_go_away_and_close_on_dispatch.scaled.scaling_threshold":   "0.9",
	"listener.per_connection_buffer_limit_bytes":                                                             "65536",
	"manager.max_request_headers_kb":                                                                         "32",
	"manager.common_http_protocol_options.max_headers_count":                                                 "256",
	"manager.common_http_protocol_options.max_stream_duration":                                               "0s",
	"manager.common_http_protocol_options.idle_timeout":                                                      "900s",
	"manager.common_http_protocol_options.headers_with_underscores_action":                                   "REJECT_REQUEST",
	"manager.http2_protocol_options.max_concurrent_streams":                                                  "64",
	"manager.http2_protocol_options.initial_stream_window_size":                                              "65536",
	"manager.http2_protocol_options.initial_connection_window_size":                                          "1048576",
	"manager.request_headers_timeout":                                                                        "10s",
	"manager.stream_idle_timeout":                                                                            "300s",
	"manager.stream_flush_timeout":                                                                           "30s",
	"cluster.authz.circuit_breakers.thresholds.max_requests":                                                 "8192",
	"cluster.authz.circuit_breakers.thresholds.max_connections":                                              "8192",
	"cluster.authz.circuit_breakers.thresholds.max_pending_requests":                                         "8192",
	"cluster.authz.circuit_breakers.thresholds.retry_budget.min_retry_concurrency":                           "8192",
	"cluster.owners.circuit_breakers.thresholds.max_requests":                                                "8192",
	"cluster.owners.circuit_breakers.thresholds.max_connections":                                             "8192",
	"cluster.owners.circuit_breakers.thresholds.max_pending_requests":                                        "8192",
	"cluster.owners.circuit_breakers.thresholds.retry_budget.min_retry_concurrency":                          "8192",
	"cluster.upstream.circuit_breakers.thresholds.max_requests":                                              "8192",
	"cluster.upstream.circuit_breakers.thresholds.max_connections":                                           "8192",
	"cluster.upstream.circuit_breakers.thresholds.max_pending_requests":                                      "8192",
	"cluster.upstream.circuit_breakers.thresholds.retry_budget.min_retry_concurrency":                        "8192",
	"cluster.authz.connect_timeout":                                                                          "0.1s",
	"cluster.owners.common_http_protocol_options.idle_timeout":                                               "60s",
	"cluster.owners.connect_timeout":                                                                         "1s",
	"cluster.upstream.connect_timeout":                                                                       "1s",
	"cluster.upstream.dns_lookup_family":                                                                     "V4_PREFERRED",
}

// wrappers are names that the paths of settings omit.
var wrappers = []string{
	"typed_config", "triggers", "typed_extension_protocol_options", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
}

func TestSettings(t *testing.T) {
	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc := decode(t, text)
	static := doc["static_resources"].(map[string]any)
	doc["manager"], doc["listener"], doc["cluster"] = manager(doc), static["listeners"].([]any)[0], static["clusters"]
	for path, want := range settings {
		if got := fmt.Sprint(lookUp(doc, strings.Split(path, "."))); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

// lookUp follows names through mappings, and through lists whose items have a name or timer that ends in it. The value of
// a timer is its min_timeout.
func lookUp(value any, path []string) any {
	switch value := value.(type) {
	case map[string]any:
		if len(path) == 0 {
			if timeout, ok := value["min_timeout"]; ok {
				return timeout
			}
			return value
		}
		if inner, ok := value[path[0]]; ok {
			return lookUp(inner, path[1:])
		}
		for _, wrapper := range wrappers {
			if inner, ok := value[wrapper]; ok {
				if found := lookUp(inner, path); found != nil {
					return found
				}
			}
		}
	case []any:
		if len(value) == 1 && len(path) > 0 {
			if found := lookUp(value[0], path); found != nil {
				return found
			}
		}
		i := slices.IndexFunc(value, func(item any) bool {
			m, _ := item.(map[string]any)
			name, _ := m["name"].(string)
			return len(path) > 0 && (name == path[0] || strings.HasSuffix(name, "."+path[0]) || m["timer"] == path[0])
		})
		if i >= 0 {
			return lookUp(value[i], path[1:])
		}
	default:
		if len(path) == 0 {
			return value
		}
	}
	return nil
}
