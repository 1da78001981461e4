package envoy_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// peakMemory returns the most memory that Envoy has had so far, in bytes.
func (p *proxy) peakMemory(t *testing.T) int64 {
	t.Helper()
	peak, err := testbed.PeakResident(p.Pid())
	if err != nil {
		t.Fatal(err)
	}
	return peak
}

// keepaliveTimers returns the number of connections to a port of 127.0.0.1 that have a running keepalive timer, and of
// all connections to it.
func keepaliveTimers(t *testing.T, port int) (running, all int) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	const established, keepalive = "01", "02:"
	remote := fmt.Sprintf("0100007F:%04X", port)
	for line := range strings.SplitSeq(string(text), "\n") {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when …
		if f := strings.Fields(line); len(f) > 5 && f[2] == remote && f[3] == established {
			all++
			if strings.HasPrefix(f[5], keepalive) {
				running++
			}
		}
	}
	return running, all
}
