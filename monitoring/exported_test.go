package monitoring

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var (
	tableRow  = regexp.MustCompile("(?m)^\\| `(phantom_\\w+)` \\| (\\w+) \\| [^|]* \\| ([^|]*) \\|")
	tableWord = regexp.MustCompile("`([^`]*)`")
)

// others are the metrics of Envoy and of Go that the rules and the dashboard use, with their labels.
var others = map[string]map[string][]string{
	"envoy_http_ext_authz_ok": nil, "envoy_http_ext_authz_denied": nil, "envoy_http_ext_authz_error": nil,
	"envoy_http_downstream_rq_total": nil,
	"envoy_http_downstream_rq_xx":    {"envoy_response_code_class": nil, "envoy_http_conn_manager_prefix": nil},
	"go_memstats_sys_bytes":          nil, "go_memstats_heap_released_bytes": nil, "go_gc_gomemlimit_bytes": nil, "go_goroutines": nil,
}

// exported returns the labels of each metric, with their values as far as they are listed. Those of authzd and keyd are in
// docs/metrics.md, which a test of the product compares with what the programs export.
func exported(t *testing.T) map[string]map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string][]string{}
	add := func(name string, labels map[string][]string) {
		all[name] = map[string][]string{"job": nil, "instance": nil, "pod": nil}
		for label, values := range labels {
			all[name][label] = values
		}
	}
	for name, labels := range others {
		add(name, labels)
	}
	for _, row := range tableRow.FindAllStringSubmatch(string(text), -1) {
		labels := map[string][]string{}
		for part := range strings.SplitSeq(row[3], ";") {
			label, values, _ := strings.Cut(part, ":")
			for _, name := range tableWord.FindAllStringSubmatch(label, 1) {
				labels[name[1]] = nil
				for _, value := range tableWord.FindAllStringSubmatch(values, -1) {
					labels[name[1]] = append(labels[name[1]], value[1])
				}
			}
		}
		if row[2] != "histogram" {
			add(row[1], labels)
			continue
		}
		for _, suffix := range []string{"_count", "_sum", "_bucket"} {
			add(row[1]+suffix, labels)
		}
		all[row[1]+"_bucket"]["le"] = nil
	}
	if len(all) < 50 {
		t.Fatalf("docs/metrics.md has only %d metrics: has the form of its tables changed?", len(all))
	}
	return all
}
