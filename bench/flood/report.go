package main

import (
	"fmt"
	"slices"

	"github.com/phantomrouter/phantom-authz/bench"
)

// report prints a table. Values of the sidecar are medians of the rounds. Latencies of hot keys are percentiles over all rounds.
// The least and the greatest of a round follow in parentheses.
func report(variants []*variant) {
	fmt.Printf("Hot keys at %d checks a second, %d rounds of %v of each load; (least to greatest of a round).\n\n", *rate, *rounds, *duration)
	fmt.Println("| hot keys | load's checks/s | sidecar's share of its core | p50, ms | p99, ms | p99 to that beside known keys | p99 to hot keys alone |\n|---|---|---|---|---|---|---|")
	for _, v := range variants {
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s |\n", v.Name,
			bench.MedianSpread(v.Values(func(r round) float64 { return r.perSecond }), "%.0f"),
			bench.MedianSpread(v.Values(func(r round) float64 { return r.busy }), "%.2f"),
			v.percentile(50), v.percentile(99), v.ratio(v.known), v.ratio(variants[0]))
	}
}

// percentile formats a percentile over all rounds.
func (v *variant) percentile(p int) string {
	return bench.Spread(v.overall(p), v.Values(millis(p)), "%.2f")
}

// ratio formats the ratio of the 99th percentiles.
func (v *variant) ratio(to *variant) string {
	if to == nil || to == v {
		return ""
	}
	return bench.Spread(v.overall(99)/to.overall(99), v.Ratios(to.Variant, millis(99)), "%.2f")
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
