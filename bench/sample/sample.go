// Package sample sums up what the benchmarks have measured.
package sample

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Times are durations of one thing that was done again and again, sorted.
type Times []time.Duration

// Of sorts durations and returns them; at least one.
func Of(all []time.Duration) Times {
	slices.Sort(all)
	return all
}

// Median is the middle one.
func (t Times) Median() time.Duration { return t[len(t)/2] }

// P99 is longer than 99 of 100.
func (t Times) P99() time.Duration { return t[len(t)*99/100] }

// Longest is the longest one.
func (t Times) Longest() time.Duration { return t[len(t)-1] }

// String tells median, p99 and the longest as cells of a table.
func (t Times) String() string {
	return Millis(t.Median()) + " | " + Millis(t.P99()) + " | " + Millis(t.Longest())
}

// Millis writes a duration in milliseconds.
func Millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

// Spread writes the median of values with the least and the greatest, each in the form.
func Spread(values []float64, form string) string {
	sorted := slices.SortedFunc(slices.Values(values), cmp.Compare)
	return fmt.Sprintf(form+" ("+form+" to "+form+")", sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1])
}
