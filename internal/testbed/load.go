package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"time"
)

// Load is many concurrent checks of one sidecar. The program loadgen sends them.
type Load struct {
	Socket string // of the sidecar
	// Key is presented by every check; empty: each presents another random key, which keyd does not know.
	Key string
	// KeysFile names a file with a key on each line. The checks present them in turn, in place of Key.
	KeysFile string
	// Canaries are random keys that some of the checks present.
	Canaries []string
	Checks   int // in total
	// Duration ends the load before all Checks have been sent; 0: no limit.
	Duration time.Duration
	// PerSecond is an even rate; 0: as fast as the sidecar answers.
	PerSecond int
	// Timed measures the latency of each check, from its writing to its answer.
	Timed bool
}

// Answers are the result of a load.
type Answers struct {
	ByReason  map[string]int
	Latencies []time.Duration // if the load is timed
}

// GenerateLoad sends a load to the sidecar of that name, waits until all checks are answered, and returns the answers by
// reason.
func (tb *Testbed) GenerateLoad(ctx context.Context, sidecar string, load Load) (map[string]int, error) {
	answers, err := tb.TimeLoad(ctx, sidecar, load)
	return answers.ByReason, err
}

// TimeLoad is GenerateLoad with the latencies of a timed load.
func (tb *Testbed) TimeLoad(ctx context.Context, sidecar string, load Load) (answers Answers, err error) {
	const canaries = 100
	load.Socket = tb.Socket(sidecar)
	for range canaries {
		load.Canaries = append(load.Canaries, tb.UnknownKey().Reveal())
	}
	text, err := json.Marshal(load)
	if err != nil {
		return answers, err
	}
	cmd := tb.Command(ctx, "loadgen")
	cmd.Stdin, cmd.Stderr, cmd.SysProcAttr = bytes.NewReader(text), os.Stderr, attributes()
	out, err := cmd.Output()
	if err != nil {
		return answers, err
	}
	return answers, json.Unmarshal(out, &answers)
}
