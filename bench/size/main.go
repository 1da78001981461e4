// Command size measures authzd with a large cache: its memory for each credential, and the latency of checks that it answers
// from this cache, at an even rate. The baseline is another authzd with 4,096 credentials. Both take turns, and each check
// presents a random one of the cached keys.
//
// The memory is all that is resident of the process at the end of a round (VmRSS). Go collects garbage when the heap has
// doubled, so an authzd uses twice what its cache contains, if it may. The large one has a limit, GOMEMLIMIT, as in a container.
// The price is more collections, which the latency shows.
//
// The key API is a part of this program, which makes the facts about a key from its digest: an id, one account for five
// keys on average, and one of four sets of scopes. Authzd, the key API and the load share this machine's processors.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

const baselineKeys = 4096

// The goals: bytes for each credential, and p99.9 as a multiple of the baseline's.
const (
	maxBytes = 350
	maxRatio = 5
)

var (
	keyCount = flag.Int("keys", 1_000_000, "credentials in the large cache")
	limit    = flag.String("limit", "300MiB", "GOMEMLIMIT of the large authzd; it needs 200 bytes for each credential and 40 MiB")
	rate     = flag.Int("rate", 8000, "checks a second")
	rounds   = flag.Int("rounds", 3, "rounds with each cache")
	duration = flag.Duration("duration", 8*time.Second, "duration of a round")
)

func main() {
	bench.Main(func(ctx context.Context) error {
		return testbed.Run(ctx, func(tb *testbed.Testbed) error { return measure(ctx, tb) }, "cmd/authzd", "internal/loadgen")
	})
}

func measure(ctx context.Context, tb *testbed.Testbed) error {
	api, err := serveKeyAPI(tb.Socket("sidecars"), *keyCount/5)
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	small, err := start(ctx, tb, "small", baselineKeys, "")
	if err != nil {
		return err
	}
	large, err := start(ctx, tb, "large", *keyCount, "GOMEMLIMIT="+*limit)
	if err != nil {
		return err
	}
	baseline, measured := small.variant(ctx), large.variant(ctx)
	if err := bench.InTurn(*rounds, baseline, measured); err != nil {
		return err
	}
	report(baseline, measured)
	return nil
}

func report(baseline, measured *bench.Variant[round]) {
	perKey := func(r round) float64 { return float64(r.resident) / float64(r.keys) }
	p999 := func(r round) float64 { return bench.Millis(r.at(999)) }
	columns := []func(round) float64{
		func(r round) float64 { return float64(r.resident) / (1 << 20) },
		perKey,
		func(r round) float64 { return bench.Millis(r.at(500)) },
		func(r round) float64 { return bench.Millis(r.at(990)) },
		p999,
		func(r round) float64 { return bench.Micros(r.cpu) / float64(len(r.latencies)) },
		func(r round) float64 { return r.collections },
	}
	t := result.Table{
		Name:    "size",
		Caption: fmt.Sprintf("%d checks a second, medians of %d rounds of %s (least to greatest).", *rate, *rounds, *duration),
		Columns: []string{"cache", "resident, MiB", "for each credential, bytes", "p50, ms", "p99, ms", "p99.9, ms", "CPU for a check, µs", "collections a second"},
	}
	for _, v := range []*bench.Variant[round]{baseline, measured} {
		row := result.Row{Name: v.Name}
		for _, column := range columns {
			row.Cells = append(row.Cells, result.Median(v.Values(column)))
		}
		t.Rows = append(t.Rows, row)
	}
	ratios := result.Row{Name: "ratio in the same turn", Cells: make([]result.Cell, len(columns))} // some are empty
	for i := 2; i < 6; i++ {
		ratios.Cells[i] = result.Median(measured.Ratios(baseline, columns[i]))
	}
	t.Rows = append(t.Rows, ratios)
	bench.Report(t)
	bench.ReportGoals(
		result.Goal{Name: measured.Name + ": bytes resident for each", AtMost: maxBytes, Measured: result.Median(measured.Values(perKey))},
		result.Goal{Name: measured.Name + ": p99.9 to " + baseline.Name, AtMost: maxRatio, Measured: result.Median(measured.Ratios(baseline, p999))},
	)
}

// writeLines writes a file with a line for each key.
func writeLines(name string, keys []string) error {
	text := make([]byte, 0, len(keys)*(len(keys[0])+1))
	for _, key := range keys {
		text = append(append(text, key...), '\n')
	}
	return os.WriteFile(name, text, 0o600)
}
