package envoy_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/collector"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// tracing returns the edit that adds the blocks of docs/tracing.md to a configuration, with this collector and all requests
// sampled.
func tracing(t *testing.T, c *collector.Collector) edit {
	t.Helper()
	text, err := os.ReadFile("../docs/tracing.md")
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(c.Address())
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")
	if len(blocks) != 3 {
		t.Fatalf("docs/tracing.md has %d blocks of YAML, want 2", len(blocks)-1)
	}
	var ofManager, ofCluster map[string]any
	for i, into := range []*map[string]any{&ofManager, &ofCluster} {
		block, _, _ := strings.Cut(blocks[i+1], "```")
		block = strings.NewReplacer(
			"random_sampling: {value: 1}", "random_sampling: {value: 100}",
			"address: collector", "address: "+host, "4318", port,
		).Replace(block)
		if err := yaml.Unmarshal([]byte(block), into); err != nil {
			t.Fatal(err)
		}
	}
	return func(config map[string]any) {
		m, static := manager(config), config["static_resources"].(map[string]any)
		m["tracing"] = ofManager["tracing"]
		const extensions = "early_header_mutation_extensions"
		m[extensions] = append(m[extensions].([]any), ofManager[extensions].([]any)...)
		config["layered_runtime"] = map[string]any{"layers": []any{map[string]any{
			"name": "tests", "static_layer": map[string]any{"tracing.opentelemetry.flush_interval_ms": 100},
		}}}
		static["clusters"] = append(static["clusters"].([]any), ofCluster)
	}
}

// traceOf waits until the trace that begins with a request has n spans, and returns them. The traces in not are others.
func traceOf(t *testing.T, c *collector.Collector, n int, not map[string]bool) []collector.Span {
	t.Helper()
	var spans []collector.Span
	eventually(t, fmt.Sprintf("a trace of %d spans", n), func() error {
		var all []string
		for _, s := range c.Spans() {
			id := string(s.GetTraceId())
			if s.Service != "envoy" || s.Parent() != "" || not[id] {
				continue
			}
			spans = c.Trace(fmt.Sprintf("%x", id))
			all = append(all, describe(spans))
			if len(spans) >= n {
				not[id] = true
				return nil
			}
		}
		return fmt.Errorf("traces: %q", all)
	})
	return spans
}

func describe(spans []collector.Span) string {
	var all []string
	for _, s := range spans {
		all = append(all, s.Service+" "+s.GetName())
	}
	return strings.Join(all, ", ")
}

// lineage returns the names of a span and its ancestors, from the root.
func lineage(spans []collector.Span, s collector.Span) string {
	name := s.Service + " " + s.GetName()
	for _, other := range spans {
		if other.ID() == s.Parent() {
			return lineage(spans, other) + " > " + name
		}
	}
	return name
}

func lineages(spans []collector.Span) map[string]bool {
	all := map[string]bool{}
	for _, s := range spans {
		all[lineage(spans, s)] = true
	}
	return all
}

func TestTraceOfEnvoy(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		c := env.collector
		name := unique("authzd")
		env.ownAuthzd(t, name, testbed.Config{"tracing": testbed.Config{"otlp": c.URL()}})
		p := env.ownEnvoy(t, s, envoy.Addresses{Authz: env.socket(name)}, tracing(t, c))
		seen := map[string]bool{}
		for _, span := range c.Spans() { // of another Envoy
			seen[string(span.GetTraceId())] = true
		}

		const client = "0af7651916cd43dd8448eb211c80319c"
		if a := p.do(t, request{path: "/api/v1/me"}.with(bearer(env.creds.Chat), "traceparent: 00-"+client+"-b7ad6b7169203331-01")); a.status != 200 {
			t.Fatalf("%+v", a)
		}
		spans := traceOf(t, c, 5, seen)
		const check = "envoy ingress > envoy async envoy.service.auth.v3.Authorization.Check egress > authzd check"
		all := lineages(spans)
		for _, want := range []string{
			check, check + " > authzd resolve", check + " > authzd resolve > keyd POST /v1/resolve",
			check + " > authzd resolve > keyd POST /v1/resolve > keyd store resolve",
		} {
			if !all[want] {
				t.Errorf("no span %q in %v", want, all)
			}
		}
		if spans := c.Trace(client); len(spans) > 0 {
			t.Errorf("the client's trace was continued: %s", describe(spans))
		}

		if a := p.do(t, request{path: "/api/v1/me/keys"}.with(webApp, cookie(env.creds.Session))); a.status != 200 {
			t.Fatalf("%+v", a)
		}
		spans = traceOf(t, c, 8, seen)
		if all := lineages(spans); !all["envoy ingress > keyd GET /api/v1/me/keys"] || !all["envoy ingress > keyd GET /api/v1/me/keys > keyd store keys"] {
			t.Errorf("the owner's request is not in %v", all)
		}
		if err := env.Canaries.Search("the exported spans", c.Raw(), false); err != nil {
			t.Error(err)
		}
	})
}
