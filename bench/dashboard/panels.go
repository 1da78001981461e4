package main

import (
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

// drawn are the panels with a picture: those that the outages and revocations move.
var drawn = []string{
	"Checks by decision", "Denials by reason", "Checks answered with 503", "Latency of a check",
	"Sidecars by mode", "Acknowledgement age", "Key API down", "Cache hit ratio", "Resolves by outcome",
	"Changes not yet effective", "Age of the oldest pending change", "Application of a change",
	"Requests by side", "Store: latency by operation", "ext_authz", "Responses by class", "Memory",
}

// units are the names of Grafana's units.
var units = map[string]string{
	"reqps": "1/s", "cps": "1/s", "percentunit": "of 1", "s": "s", "short": "number", "bytes": "bytes",
}

// most is the number of lines of a chart that have different colours.
const most = 4

// greatest returns the lines with the greatest values. A line of zeros only is left out if there are others.
func greatest(lines []result.Line) []result.Line {
	peak := func(l result.Line) float64 { return slices.Max(l.Values) }
	slices.SortStableFunc(lines, func(a, b result.Line) int {
		switch {
		case peak(a) > peak(b):
			return -1
		case peak(a) < peak(b):
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	lines = lines[:min(most, len(lines))]
	for len(lines) > 1 && peak(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// fileName returns that of a panel's picture: sidecars-by-mode.svg.
func fileName(title string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(title), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}), "-") + ".svg"
}
