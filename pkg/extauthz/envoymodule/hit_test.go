package envoymodule

import (
	"testing"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// quiet is an Envoy that allocates nothing: what a check allocates is the module's.
type quiet struct {
	shared.HttpFilterHandle
	shared.HeaderMap
	headers [][2]shared.UnsafeEnvoyBuffer
	route   any
}

func (q *quiet) GetAll() [][2]shared.UnsafeEnvoyBuffer                 { return q.headers }
func (q *quiet) Set(string, string)                                    {}
func (q *quiet) Remove(string)                                         {}
func (q *quiet) GetMostSpecificConfig() any                            { return q.route }
func (q *quiet) SetMetadataString(string, string, string)              {}
func (q *quiet) AddMetadataListString(string, string, string) bool     { return true }
func (q *quiet) SendLocalResponse(uint32, [][2]string, []byte, string) {}
func (q *quiet) IncrementCounterValue(id shared.MetricID, _ uint64, _ ...string) shared.MetricsResult {
	return shared.MetricsResult(id)
}

func newQuiet(headers ...string) *quiet {
	q := &quiet{}
	for _, e := range entriesOf(headers) {
		q.headers = append(q.headers, [2]shared.UnsafeEnvoyBuffer{buffer(e.name), buffer(e.value)})
	}
	return q
}

// browser are the other headers of a request, as many as a browser sends.
func browser(headers ...string) []string {
	return append(to("/api/v1/me/vector-store?limit=20",
		":scheme: https", "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/148.0.0.0 Safari/537.36",
		"accept: application/json, text/plain, */*", "accept-language: en-US,en;q=0.9", "accept-encoding: gzip, deflate, br, zstd",
		"sec-fetch-mode: cors", "sec-fetch-dest: empty", "x-forwarded-for: 192.0.2.1", "x-forwarded-proto: https", "cache-control: no-cache",
	), headers...)
}

// hits are checks that the cache answers. allocations are those of one check with its filter. More of
// them than a handful cost the module what it is for: a check at the price of a function call.
var hits = []struct {
	name        string
	headers     []string
	allocations float64
}{
	{"key", browser(bearer(chatKey)), 1},
	{"session", browser(cookie(session)+"; theme=dark; lang=en", "origin: "+origin), 5},
	{"denied", browser(bearer(revokedKey)), 4},
}

// check runs one stream with a hit.
func (q *quiet) check(f shared.HttpFilterFactory) shared.HeadersStatus {
	x := f.Create(q)
	status := x.OnRequestHeaders(q, true)
	x.OnStreamComplete()
	x.OnDestroy()
	return status
}

func TestHitAllocatesAHandful(t *testing.T) {
	for _, tt := range hits {
		e := newEngine(t)
		f, q := e.factory(t), newQuiet(tt.headers...)
		q.route = routeOf(t, &extauthz.RouteRequirement{Set: true, Scope: "chat:companion"})
		if status := q.check(f); (status == shared.HeadersStatusContinue) != (tt.name != "denied") {
			t.Errorf("%s: the status %d", tt.name, status)
		}
		if got := testing.AllocsPerRun(200, func() { q.check(f) }); got > tt.allocations {
			t.Errorf("%s: %v allocations, at most %v", tt.name, got, tt.allocations)
		}
	}
}

// The core alone is the baseline: the same check without the module.
func BenchmarkHit(b *testing.B) {
	for _, tt := range hits {
		e := newEngine(b)
		f, q := e.factory(b), newQuiet(tt.headers...)
		q.route = &route{extauthz.RouteRequirement{Set: true, Scope: "chat:companion"}.Parse()}
		b.Run(tt.name+"/module", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				q.check(f)
			}
		})
		x := f.Create(q).(*filter)
		x.read(q)
		b.Run(tt.name+"/core", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request := x.request
				outcome, _ := f.Checker.Begin(&request)
				outcome.Answer()
			}
		})
	}
}
