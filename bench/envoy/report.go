package main

import (
	"fmt"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
)

// column is a value of a round.
type column struct {
	title     string
	ofSidecar bool // empty for variants without a sidecar
	of        func(round) float64
}

func perSecond(r round) float64 { return r.full.perSecond() }

func p99(r round) float64 { return bench.Millis(r.full.P99) }

var atFullSpeed = []column{
	{"requests/s", false, perSecond},
	{"p50, ms", false, func(r round) float64 { return bench.Millis(r.full.P50) }},
	{"p99, ms", false, p99},
	{"Envoy's CPU for a request, µs", false, func(r round) float64 { return r.full.perRequest(r.full.envoy) }},
	{"sidecar's CPU, µs", true, func(r round) float64 { return r.full.perRequest(r.full.sidecar) }},
	{"answers other than 200", false, func(r round) float64 { return float64(r.full.Others) }},
	{"Envoy's share of its core", false, func(r round) float64 { return r.full.envoy.Seconds() / r.full.Elapsed.Seconds() }},
	{"Envoy's memory, MiB", false, func(r round) float64 { return float64(r.envoyBytes) / (1 << 20) }},
	{"sidecar's memory, MiB", true, func(r round) float64 { return float64(r.authzBytes) / (1 << 20) }},
}

var atEvenRate = []column{
	{"p50, ms", false, func(r round) float64 { return bench.Millis(r.even.P50) }},
	{"p99, ms", false, func(r round) float64 { return bench.Millis(r.even.P99) }},
	{"Envoy's CPU for a request, µs", false, func(r round) float64 { return r.even.perRequest(r.even.envoy) }},
	{"sidecar's CPU, µs", true, func(r round) float64 { return r.even.perRequest(r.even.sidecar) }},
	{"answers other than 200", false, func(r round) float64 { return float64(r.even.Others) }},
}

// report prints the tables.
func (p *proxies) report() {
	bench.Report(p.table("envoy", fmt.Sprintf("Envoy %s with one worker, %d connections, each with the next request as soon as the previous one is answered; %d keys. Medians of %d rounds of %v (least to greatest).",
		*version, *connections, *keyCount, *rounds, *duration), atFullSpeed))
	bench.Report(p.table("envoy-rate", fmt.Sprintf("The same at %d requests a second, at even intervals. A latency counts from the time at which the request was due.", *rate), atEvenRate))
	bench.Report(p.ratios())
	bench.ReportGoals(
		result.Goal{Name: "module: CPU that it adds, to that which ext_authz with authzd adds", AtMost: 0.12, Measured: result.Median(p.addedRatios(p.module))},
		result.Goal{Name: "module: requests/s to no authorization", AtLeast: 0.65, Measured: result.Median(p.module.Ratios(p.none.Variant, perSecond))},
		result.Goal{Name: "module: requests/s to ext_authz with authzd", AtLeast: 2.5, Measured: result.Median(p.module.Ratios(p.authzd.Variant, perSecond))},
		result.Goal{Name: "module: p99 to ext_authz with authzd", AtMost: 0.6, Measured: result.Median(p.module.Ratios(p.authzd.Variant, p99))},
	)
}

func (p *proxies) table(name, caption string, columns []column) result.Table {
	t := result.Table{Name: name, Caption: caption, Columns: []string{"authorization"}}
	for _, c := range columns {
		t.Columns = append(t.Columns, c.title)
	}
	for _, v := range p.all {
		row := result.Row{Name: v.Name}
		for _, c := range columns {
			var cell result.Cell
			if v.sidecar != nil || !c.ofSidecar {
				cell = result.Median(v.Values(c.of))
			}
			row.Cells = append(row.Cells, cell)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// addedCPU returns the CPU for a request, of Envoy and the sidecar, beyond that of the baseline in the same turn, in microseconds.
func (p *proxies) addedCPU(v *proxy) []float64 {
	cpu := func(r round) float64 { return r.full.perRequest(r.full.envoy + r.full.sidecar) }
	added := v.Values(cpu)
	for i, baseline := range p.none.Values(cpu) {
		added[i] -= baseline
	}
	return added
}

// ratios compares each variant with the baseline and with authzd, in the same turn.
func (p *proxies) ratios() result.Table {
	t := result.Table{
		Name: "envoy-ratios", Caption: "Each compared with others of the same turn, at full speed.",
		Columns: []string{"authorization", "added CPU for a request, µs", "of what ext_authz adds", "requests/s to no authorization", "requests/s to ext_authz", "p99 to ext_authz"},
	}
	for _, v := range p.all[1:] {
		t.Rows = append(t.Rows, result.Row{Name: v.Name, Cells: []result.Cell{
			result.Median(p.addedCPU(v)),
			result.Median(p.addedRatios(v)),
			result.Median(v.Ratios(p.none.Variant, perSecond)),
			result.Median(v.Ratios(p.authzd.Variant, perSecond)),
			result.Median(v.Ratios(p.authzd.Variant, p99)),
		}})
	}
	return t
}

// addedRatios returns the ratio of the added CPU to that of authzd.
func (p *proxies) addedRatios(v *proxy) []float64 {
	ratios := p.addedCPU(v)
	for i, authzd := range p.addedCPU(p.authzd) {
		ratios[i] /= authzd
	}
	return ratios
}
