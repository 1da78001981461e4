package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

// sample is where a thread was when perf looked at it.
type sample struct {
	process, thread int
	symbol          string
	file            string // name of the program or library, or [kernel.kallsyms]
}

// partNames are the parts of the CPU of a request, in the order of the table.
var partNames = []string{
	"Envoy's code", "kernel, in Envoy's worker", "module: the check", "module: Go's runtime and calls between C and Go",
	"Envoy's other threads, with Go's", "sidecar: the check", "sidecar: HTTP/2, gRPC and messages", "sidecar: Go's runtime and library", "sidecar: kernel",
}

// part returns the index in partNames of the part that a sample belongs to.
func (s sample) part(envoy, worker int) int {
	isKernel := strings.HasPrefix(s.file, "[kernel")
	ownCode := strings.Contains(s.symbol, "phantomrouter/") || strings.Contains(s.symbol, "golang-lru")
	transport := strings.Contains(s.symbol, "google.golang.org/") || strings.Contains(s.symbol, "golang.org/x/net") || strings.Contains(s.symbol, "go-control-plane")
	switch inEnvoy := s.process == envoy; {
	case inEnvoy && s.thread != worker:
		return 4
	case inEnvoy && isKernel:
		return 1
	case inEnvoy && strings.HasPrefix(s.file, "libphantom_authz") && ownCode:
		return 2
	case inEnvoy && strings.HasPrefix(s.file, "libphantom_authz"):
		return 3
	case inEnvoy:
		return 0
	case isKernel:
		return 8
	case ownCode:
		return 5
	case transport:
		return 6
	default:
		return 7
	}
}

// sampled is the duration of a load with perf. Shorter has fewer samples of rare parts; longer makes the benchmark longer.
const sampled = 5 * time.Second

// parts samples the processes of a variant during one load at full speed, and returns the CPU of each part in microseconds for a
// request.
func (p *proxies) parts(ctx context.Context, v *proxy) ([]float64, error) {
	pids := strconv.Itoa(v.envoy.Pid())
	if v.sidecar != nil {
		pids += "," + strconv.Itoa(v.sidecar.Pid())
	}
	data := p.File("perf.data")
	// An odd frequency does not coincide with periodic events.
	record := exec.CommandContext(ctx, "perf", "record", "-q", "-F", "1999", "-o", data, "-p", pids)
	var problem bytes.Buffer
	record.Stderr = &problem
	if err := record.Start(); err != nil {
		return nil, err
	}
	load := v.load
	load.Duration = sampled
	m, err := v.send(ctx, load)
	_ = record.Process.Signal(os.Interrupt) // it then writes the data
	_ = record.Wait()                       // with the status of the signal
	if err != nil {
		return nil, err
	}
	text, err := exec.CommandContext(ctx, "perf", "script", "-i", data, "-F", "pid,tid,ip,sym,dso").Output()
	if err != nil {
		return nil, fmt.Errorf("perf: %w: %s", err, problem.String())
	}
	counts, n := countParts(parseSamples(string(text)), v.envoy.Pid())
	if n == 0 {
		return nil, fmt.Errorf("perf has no samples: %s", problem.String())
	}
	for i := range counts {
		counts[i] *= m.perRequest(m.envoy+m.sidecar) / float64(n)
	}
	return counts, nil
}

// parseSamples parses lines PID/TID ADDRESS SYMBOL (FILE).
func parseSamples(text string) (all []sample) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		var s sample
		if _, err := fmt.Sscanf(fields[0], "%d/%d", &s.process, &s.thread); err != nil {
			continue
		}
		s.symbol = strings.Join(fields[2:len(fields)-1], " ")
		s.file = filepath.Base(strings.Trim(fields[len(fields)-1], "()"))
		all = append(all, s)
	}
	return all
}

// countParts counts the samples of each part. The worker is the busiest thread of Envoy.
func countParts(all []sample, envoy int) (counts []float64, n int) {
	byThread, worker := map[int]int{}, 0
	for _, s := range all {
		if s.process == envoy {
			byThread[s.thread]++
			if byThread[s.thread] > byThread[worker] {
				worker = s.thread
			}
		}
	}
	counts = make([]float64, len(partNames))
	for _, s := range all {
		counts[s.part(envoy, worker)]++
	}
	return counts, len(all)
}

// partsTable returns a table with a column for each variant.
func (p *proxies) partsTable(ctx context.Context) (result.Table, error) {
	t := result.Table{
		Name:    "envoy-parts",
		Caption: "CPU for a request at full speed, in µs: the total of one load, divided by the samples of perf.",
		Columns: []string{"part"},
		Rows:    make([]result.Row, len(partNames)),
	}
	for _, v := range p.all {
		values, err := p.parts(ctx, v)
		if err != nil {
			return t, fmt.Errorf("%s: %w", v.Name, err)
		}
		t.Columns = append(t.Columns, v.Name)
		for i, value := range values {
			var cell result.Cell
			if value > 0 {
				cell = result.Value(value)
			}
			t.Rows[i].Name = partNames[i]
			t.Rows[i].Cells = append(t.Rows[i].Cells, cell)
		}
	}
	return t, nil
}
