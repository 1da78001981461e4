package main

import (
	"fmt"
	"slices"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
)

// report prints a table. Values of the sidecar are medians of the rounds. Latencies of hot keys are percentiles over all rounds.
// The least and the greatest of a round follow in parentheses.
func report(variants []*variant) {
	t := result.Table{
		Name:    "flood",
		Caption: fmt.Sprintf("Hot keys at %d checks a second, %d rounds of %v of each load (least to greatest of a round).", *rate, *rounds, *duration),
		Columns: []string{"hot keys", "load's checks/s", "sidecar's share of its core", "p50, ms", "p99, ms", "p99 to that beside known keys", "p99 to hot keys alone"},
	}
	for _, v := range variants {
		t.Rows = append(t.Rows, result.Row{Name: v.Name, Cells: []result.Cell{
			result.Median(v.Values(func(r round) float64 { return r.perSecond })),
			result.Median(v.Values(func(r round) float64 { return r.busy })),
			v.percentile(50), v.percentile(99), v.ratio(v.known), v.ratio(variants[0]),
		}})
	}
	bench.Report(t)
}

// percentile returns a percentile over all rounds.
func (v *variant) percentile(p int) result.Cell {
	return result.Spread(v.overall(p), v.Values(millis(p)))
}

// ratio returns the ratio of the 99th percentiles.
func (v *variant) ratio(to *variant) result.Cell {
	if to == nil || to == v {
		return nil
	}
	return result.Spread(v.overall(99)/to.overall(99), v.Ratios(to.Variant, millis(99)))
}

// overall returns a percentile over all rounds in milliseconds.
func (v *variant) overall(p int) float64 {
	var all round
	for _, r := range v.Rounds {
		all.latencies = append(all.latencies, r.latencies...)
	}
	slices.Sort(all.latencies)
	return millis(p)(all)
}

// millis returns the function that returns a percentile of a round in milliseconds.
func millis(p int) func(round) float64 {
	return func(r round) float64 { return bench.Millis(r.latencies.Percentile(p)) }
}
