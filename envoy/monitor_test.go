package envoy_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// sendMonitor sends the request to the listener monitor.
func (p *proxy) sendMonitor(t *testing.T, r request) answer {
	t.Helper()
	to := *p
	to.addr = p.monitor
	return to.do(t, r)
}

// TestMonitorServesTwoPages: everything else of the admin listener can stop Envoy or shows its configuration.
func TestMonitorServesTwoPages(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		for _, r := range []struct {
			method, path string
			want         int
			body         string // is in the answer
		}{
			{"GET", "/ready", 200, "LIVE"},
			{"GET", "/stats/prometheus", 200, "envoy_server_live"},
			{"GET", "/stats/prometheus?usedonly&filter=server.live", 200, "envoy_server_live"},
			{"GET", "/stats/./prometheus", 200, "envoy_server_live"}, // the normalized path
			{"GET", "/quitquitquit/../ready", 200, "LIVE"},
			{"POST", "/ready", 404, ""},
			{"HEAD", "/ready", 404, ""},
			{"POST", "/stats/prometheus", 404, ""},
			{"GET", "/", 404, ""},
			{"GET", "/ready/", 404, ""},
			{"GET", "/ready/x", 404, ""},
			{"GET", "//ready", 404, ""},
			{"GET", "/READY", 404, ""},
			{"GET", "/ready;x", 404, ""},
			{"GET", "/stats", 404, ""},
			{"GET", "/stats?format=prometheus", 404, ""},
			{"GET", "/stats/prometheus/", 404, ""},
			{"GET", "/stats/prometheus/../quitquitquit", 404, ""},
			{"POST", "/stats/prometheus/../../quitquitquit", 404, ""},
			{"POST", "/ready/../quitquitquit", 404, ""},
			{"POST", "/ready%2f..%2fquitquitquit", 400, ""},
			{"POST", "/ready%2F../quitquitquit", 400, ""},
			{"POST", "/ready%5c..%5cquitquitquit", 400, ""},
			{"POST", "/ready/%2e%2e/quitquitquit", 404, ""},
			{"GET", "/stats/prometheus%3f/../config_dump", 404, ""},
			{"GET", "/ready#/config_dump", 400, ""},
			{"POST", "http://localhost/quitquitquit", 404, ""},
			{"GET", "http://localhost/config_dump", 404, ""},
			{"POST", "/quitquitquit", 404, ""},
			{"POST", "/healthcheck/fail", 404, ""},
			{"POST", "/drain_listeners", 404, ""},
			{"POST", "/logging?level=trace", 404, ""},
			{"POST", "/reset_counters", 404, ""},
			{"POST", "/runtime_modify?x=y", 404, ""},
			{"GET", "/config_dump", 404, ""},
			{"GET", "/clusters", 404, ""},
			{"GET", "/certs", 404, ""},
			{"GET", "/heap_dump", 404, ""},
			{"GET", "/tap", 404, ""},
		} {
			got := p.sendMonitor(t, request{method: r.method, path: r.path})
			if got.status != r.want || !strings.Contains(got.body, r.body) || r.want != 200 && len(got.body) > 0 {
				t.Errorf("%s %s: %d %.100s, want %d %s", r.method, r.path, got.status, got.body, r.want, r.body)
			}
		}
		for _, header := range []string{"x-envoy-original-path", "x-original-url", "x-rewrite-url", ":path", "x-http-method-override"} {
			r := request{path: "/ready", headers: []string{strings.TrimPrefix(header, ":") + ": /config_dump"}}
			if got := p.sendMonitor(t, r); got.status != 200 || !strings.HasPrefix(got.body, "LIVE") {
				t.Errorf("with %s: %d %.100s", header, got.status, got.body)
			}
		}
		// The port does not serve the API, and the port of the API does not serve the pages.
		for path, body := range map[string]string{"/ready": "LIVE", "/stats/prometheus": "envoy_server_live"} {
			if got := p.do(t, request{path: path}); got.status != http.StatusUnauthorized || strings.Contains(got.body, body) {
				t.Errorf("%s of the API: %d %.100s", path, got.status, got.body)
			}
		}
		if got := p.sendMonitor(t, request{path: "/ready"}); got.status != 200 {
			t.Errorf("afterwards /ready is %d", got.status)
		}
	})
}

// TestMonitorAnswersDuringOverload: probes must not take an Envoy out of service because it refuses some requests, and its metrics
// show why.
func TestMonitorAnswersDuringOverload(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownEnvoy(t, s, envoy.Addresses{}, func(config map[string]any) {
			overload := config["overload_manager"].(map[string]any)
			heap := overload["resource_monitors"].([]any)[0].(map[string]any)["typed_config"].(map[string]any)
			heap["max_heap_size_bytes"] = 1 << 20 // less than Envoy needs
			// Only requests are refused: a refused connection would cost the test a timeout.
			delete(overload, "loadshed_points")
			overload["actions"] = slices.DeleteFunc(overload["actions"].([]any), func(action any) bool {
				return action.(map[string]any)["name"] != "envoy.overload_actions.stop_accepting_requests"
			})
		})
		eventually(t, "refused requests", func() error {
			a, err := p.send(t.Context(), request{path: companion})
			if err == nil && a.status != http.StatusServiceUnavailable {
				err = fmt.Errorf("status %d", a.status)
			}
			return err
		})
		for _, path := range []string{"/ready", "/stats/prometheus?filter=overload"} {
			got := p.sendMonitor(t, request{path: path})
			active := "envoy_overload_envoy_overload_actions_stop_accepting_requests_active"
			if got.status != 200 || path != "/ready" && !strings.Contains(got.body, active) {
				t.Errorf("%s: %d %s", path, got.status, got.body)
			}
		}
	})
}
