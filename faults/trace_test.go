package faults_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/phantomrouter/phantom-authz/internal/collector"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// envoySpan is the id of the span in Envoy that sends a check.
const envoySpan = "00f067aa0ba902b7"

// inTrace returns the context of a check that Envoy sends in a trace.
func inTrace(t testing.TB, trace string, sampled bool) context.Context {
	flags := "00"
	if sampled {
		flags = "01"
	}
	return metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+trace+"-"+envoySpan+"-"+flags)
}

// traceID returns a trace id that depends on n.
func traceID(n int) string { return fmt.Sprintf("4bf92f3577b34da6a3ce%012x", n) }

func newCollector(t *testing.T) *collector.Collector {
	t.Helper()
	c := collector.Start()
	t.Cleanup(c.Close)
	return c
}

func tracedTo(url string) testbed.Config {
	return testbed.Config{"tracing": testbed.Config{"otlp": url}}
}

// awaitSpans waits until n spans of a trace have been exported.
func awaitSpans(t *testing.T, c *collector.Collector, trace string, n int) []collector.Span {
	t.Helper()
	var spans []collector.Span
	eventually(t, fmt.Sprintf("%d spans", n), func() error {
		if spans = c.Trace(trace); len(spans) < n {
			return fmt.Errorf("%d spans", len(spans))
		}
		return nil
	})
	return spans
}

// chain returns the spans from the child of a span downwards. Each must have one child at most.
func chain(t *testing.T, spans []collector.Span, parent string) (chain []collector.Span) {
	t.Helper()
	for {
		var children []collector.Span
		for _, s := range spans {
			if s.Parent() == parent {
				children = append(children, s)
			}
		}
		switch len(children) {
		case 0:
			return chain
		case 1:
			chain, parent = append(chain, children[0]), children[0].ID()
		default:
			t.Fatalf("%d children of %s", len(children), parent)
		}
	}
}

func names(spans []collector.Span) string {
	var all []string
	for _, s := range spans {
		all = append(all, s.Service+" "+s.GetName())
	}
	return strings.Join(all, ", ")
}

func attribute(s collector.Span, name string) string { return s.Attribute(name).GetStringValue() }

func TestTraceContinuesToTheStore(t *testing.T) {
	const (
		missed = iota + 1
		cached
		unsampled
		unknown
	)
	const trace = "authzd check, authzd resolve, keyd POST /v1/resolve, keyd store resolve"
	c := newCollector(t)
	s := newFixture(t, tracedTo(c.URL()))
	s.authzd("traced", tracedTo(c.URL()))
	checks, key := s.checks("traced"), s.mint()
	check := func(ctx context.Context, secret credential.Secret, reason string) {
		t.Helper()
		if answer, err := checks.Check(ctx, secret); err != nil || answer.Reason != reason {
			t.Fatalf("%+v, %v", answer, err)
		}
	}
	other := s.mint()
	check(t.Context(), other.Secret, "ok")
	check(inTrace(t, traceID(unsampled), false), s.mint().Secret, "ok")
	check(inTrace(t, traceID(missed), true), key.Secret, "ok")
	check(inTrace(t, traceID(cached), true), key.Secret, "ok")
	check(inTrace(t, traceID(unknown), true), s.UnknownKey(), "key_unknown")

	spans := chain(t, awaitSpans(t, c, traceID(missed), 4), envoySpan)
	if got := names(spans); got != trace {
		t.Fatalf("the trace of a miss: %s", got)
	}
	root := spans[0]
	if attribute(root, "phantom.decision") != "allow" || attribute(root, "phantom.reason") != "ok" || attribute(root, "phantom.principal") != "key" ||
		attribute(root, "phantom.account_id") != s.account || attribute(root, "phantom.credential_id") != key.ID || root.Attribute("phantom.cache_hit").GetBoolValue() {
		t.Errorf("%v", root)
	}
	if request := spans[2]; request.Attribute("http.response.status_code").GetIntValue() != 200 || attribute(request, "phantom.side") != "sidecars" {
		t.Errorf("%v", request)
	}
	spans = chain(t, awaitSpans(t, c, traceID(cached), 1), envoySpan)
	if got := names(spans); got != "authzd check" || !spans[0].Attribute("phantom.cache_hit").GetBoolValue() {
		t.Errorf("the trace of a hit: %v", spans)
	}
	spans = chain(t, awaitSpans(t, c, traceID(unknown), 4), envoySpan)
	if got := names(spans); got != trace || attribute(spans[0], "phantom.reason") != "key_unknown" {
		t.Errorf("the trace of an unknown key: %v", spans)
	}
	if all := c.Spans(); len(all) != 9 {
		t.Errorf("spans of other traces: %s", names(all))
	}
	raw := c.Raw()
	if !bytes.Contains(raw, []byte(key.ID)) {
		t.Error("the exported bytes cannot be searched")
	}
	if err := s.Canaries.Search("the exported spans", raw, false); err != nil {
		t.Error(err)
	}
}

// A collector that refuses connections, and one that never answers, cost spans and no check.
func TestChecksWithoutCollector(t *testing.T) {
	silent := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { _ = silent.Close() })
	closed := must(testbed.FreeAddresses(1))(t)[0]
	for name, address := range map[string]string{"closed": closed, "silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			const checks = 6000 // more than the queue has room for
			s := newFixture(t, tracedTo("http://"+address))
			p := s.authzd(name, tracedTo("http://"+address))
			client, key := s.checks(name), s.mint()
			var errs []error
			for n := range checks {
				ctx, cancel := context.WithTimeout(inTrace(t, traceID(n), true), testbed.EnvoyTimeout)
				secret := key.Secret
				if n%1000 == 0 {
					secret = s.mint().Secret // a miss
				}
				errs = append(errs, client.CheckAllowed(ctx, secret))
				cancel()
			}
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			eventually(t, "dropped spans", func() error {
				dropped, err := p.Metric(t.Context(), "phantom_authz_spans_dropped_total")
				if err == nil && dropped < checks-5000 {
					err = fmt.Errorf("%v dropped", dropped)
				}
				return err
			})
			if code, err := p.Stop(syscall.SIGTERM); err != nil || code != 0 {
				t.Errorf("exit code %d, %v", code, err)
			}
			lines := strings.Split(p.Output(), "\n")
			warnings := slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, "export") || strings.Contains(line, `"debug"`) })
			if len(warnings) > 3 {
				t.Errorf("%d lines about the collector:\n%s", len(warnings), strings.Join(warnings, "\n"))
			}
		})
	}
}

func TestStopExportsSpans(t *testing.T) {
	c := newCollector(t)
	s := newFixture(t, tracedTo(c.URL()))
	p := s.authzd("traced", tracedTo(c.URL()))
	if err := s.checks("traced").CheckAllowed(inTrace(t, traceID(1), true), s.mint().Secret); err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]*testbed.Process{"authzd check": p, "keyd store resolve": s.keyd} {
		if code, err := program.Stop(syscall.SIGTERM); err != nil || code != 0 {
			t.Errorf("exit code %d, %v", code, err)
		}
		if got := names(c.Trace(traceID(1))); !strings.Contains(got, name) {
			t.Errorf("%s is not in %q", name, got)
		}
	}
}

// Without the field, nothing of a trace is read, sent or exported.
func TestNoSpansWithoutTracing(t *testing.T) {
	c := newCollector(t)
	s := newFixture(t, tracedTo(c.URL()))
	s.authzd("off", nil)
	s.authzd("traced", tracedTo(c.URL()))
	key := s.mint().Secret
	if err := s.checks("off").CheckAllowed(inTrace(t, traceID(1), true), key); err != nil {
		t.Fatal(err)
	}
	if err := s.checks("traced").CheckAllowed(inTrace(t, traceID(2), true), key); err != nil {
		t.Fatal(err)
	}
	awaitSpans(t, c, traceID(2), 4)
	if spans := c.Trace(traceID(1)); len(spans) != 0 {
		t.Errorf("%s", names(spans))
	}
}
