package main

import (
	"slices"
	"testing"
)

func TestSamplesBelongToParts(t *testing.T) {
	const envoy, text = 10, `
 10/11       55d8 [unknown] (/x/envoy)
 10/11       55d8 [unknown] (/x/envoy)
 10/11       55d8 [unknown] (/x/envoy)
 10/11       ffff tcp_ack ([kernel.kallsyms])
 10/11       7fe0 github.com/phantomrouter/phantom-authz/pkg/keycache.(*Cache).Cached (/tmp/libphantom_authz.so)
 10/11       7fe0 runtime.cgocallback.abi0 (/tmp/libphantom_authz.so)
 10/12       7fe0 runtime.sysmon (/tmp/libphantom_authz.so)
 10/12       ffff do_nanosleep ([kernel.kallsyms])
 20/20       4000 github.com/phantomrouter/phantom-authz/pkg/policy.Decide (/tmp/authzd)
 20/21       4000 google.golang.org/grpc.(*Server).handleStream (/tmp/authzd)
 20/21       4000 runtime.mallocgc (/tmp/authzd)
 20/21       ffff unix_stream_sendmsg ([kernel.kallsyms])
perf: a line of another form
`
	samples := parseSamples(text)
	counts, n := countParts(samples, envoy)
	if want := []float64{3, 1, 1, 1, 2, 1, 1, 1, 1}; n != 12 || !slices.Equal(counts, want) {
		t.Errorf("%d samples: %v, want %v", n, counts, want)
	}
}
