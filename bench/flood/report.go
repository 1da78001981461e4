package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// report writes the table. Of what the sidecar does: medians of the rounds; of the hot
// keys' latencies: the quantile over all rounds together; behind each, in parentheses,
// the least and the greatest of a round.
func report(o options, all []*load) {
	alone := all[0]
	fmt.Printf("Hot keys at %d checks a second, %d rounds of %v of each load; (least to greatest of a round).\n\n", o.rate, o.rounds, o.lasts)
	fmt.Println("| hot keys | load's checks/s | sidecar's share of its core | p50, ms | p99, ms | p99 to as many known ones | p99 to hot keys alone |\n|---|---|---|---|---|---|---|")
	for _, l := range all {
		fmt.Printf("| %s | %s | %s | %s | %s |", l.name,
			spread(l.rounds, "%.0f", nil, func(r round) float64 { return r.perSecond }),
			spread(l.rounds, "%.2f", nil, func(r round) float64 { return r.busy }),
			l.quantile(50), l.quantile(99))
		fmt.Printf(" %s | %s |\n", l.ratio(l.known), l.ratio(alone))
	}
}

// quantile is one of all rounds together.
func (l *load) quantile(percent int) string {
	together := l.together().at(percent)
	return spread(l.rounds, "%.2f", &together, func(r round) float64 { return r.at(percent) })
}

// ratio is that of the 99th percentiles, over all rounds and round by round.
func (l *load) ratio(to *load) string {
	if to == nil || to == l {
		return ""
	}
	together := l.together().at(99) / to.together().at(99)
	byRound := make([]float64, len(l.rounds))
	for i := range byRound {
		byRound[i] = l.rounds[i].at(99) / to.rounds[i].at(99)
	}
	return spread(byRound, "%.2f", &together, func(r float64) float64 { return r })
}

func (l *load) together() latencies {
	var all latencies
	for _, r := range l.rounds {
		all = append(all, r.latencies...)
	}
	slices.Sort(all)
	return all
}

// at returns a quantile of sorted latencies in milliseconds.
func (l latencies) at(percent int) float64 {
	return float64(l[len(l)*percent/100]) / float64(time.Millisecond)
}

// spread writes a value, nil for the median, with the least and the greatest.
func spread[T any](all []T, form string, value *float64, of func(T) float64) string {
	values := make([]float64, len(all))
	for i, v := range all {
		values[i] = of(v)
	}
	slices.SortFunc(values, cmp.Compare)
	if value == nil {
		value = &values[len(values)/2]
	}
	return fmt.Sprintf(form+" ("+form+" to "+form+")", *value, values[0], values[len(values)-1])
}
