package bench

import (
	"fmt"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

// Variant is one of several things that a benchmark measures in turn.
type Variant[R any] struct {
	Name   string
	Run    func() (R, error) // runs one round
	Rounds []R               // the results
}

// InTurn measures n rounds of each variant. The variants take turns, so that slow changes of the machine affect all of them. The
// first round of each warms up and does not count.
func InTurn[R any](n int, variants ...*Variant[R]) error {
	for i := range n + 1 {
		for _, v := range variants {
			result, err := v.Run()
			if err != nil {
				return fmt.Errorf("%s: %w", v.Name, err)
			}
			if i > 0 {
				v.Rounds = append(v.Rounds, result)
			}
		}
	}
	return nil
}

// Values returns a value of each round.
func (v *Variant[R]) Values(of func(R) float64) []float64 {
	values := make([]float64, len(v.Rounds))
	for i, round := range v.Rounds {
		values[i] = of(round)
	}
	return values
}

// Ratios returns the ratio of a value to that of the baseline in the same turn.
func (v *Variant[R]) Ratios(baseline *Variant[R], of func(R) float64) []float64 {
	ratios := v.Values(of)
	for i, value := range baseline.Values(of) {
		ratios[i] /= value
	}
	return ratios
}

// MedianSpread formats the median with the least and the greatest of the values.
func MedianSpread(values []float64, format string) string {
	return Spread(Median(values), values, format)
}

// Median returns the median of the values.
func Median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }

// Spread formats a value with the least and the greatest of the values.
func Spread(value float64, values []float64, format string) string {
	return fmt.Sprintf(format+" ("+format+" to "+format+")", value, slices.Min(values), slices.Max(values))
}

// Times are sorted durations of repetitions of one thing.
type Times []time.Duration

// Sort sorts durations, of which there must be one, and returns them.
func Sort(all []time.Duration) Times {
	slices.Sort(all)
	return all
}

// Percentile returns the percentile p, from 0 to 99.
func (t Times) Percentile(p int) time.Duration { return t[len(t)*p/100] }

// Median returns the 50th percentile.
func (t Times) Median() time.Duration { return t.Percentile(50) }

// String formats median, p99 and maximum as cells of a table.
func (t Times) String() string {
	return fmt.Sprintf("%.2f ms | %.2f ms | %.2f ms", Millis(t.Median()), Millis(t.Percentile(99)), Millis(t[len(t)-1]))
}

// Cells returns median, p99 and maximum in milliseconds.
func (t Times) Cells() []result.Cell {
	return []result.Cell{result.Value(Millis(t.Median())), result.Value(Millis(t.Percentile(99))), result.Value(Millis(t[len(t)-1]))}
}

// Millis returns a duration in milliseconds.
func Millis(d time.Duration) float64 { return d.Seconds() * 1000 }

// Micros returns a duration in microseconds.
func Micros(d time.Duration) float64 { return d.Seconds() * 1e6 }
