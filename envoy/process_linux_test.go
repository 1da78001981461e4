package envoy_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// diesWithUs: a test binary that is killed, or panics, leaves no process behind.
func diesWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// peakMemory returns the most memory that the process has had so far, in bytes.
func (p *process) peakMemory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(rest, "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmHWM in /proc/PID/status")
	return 0
}

// keepaliveTimers returns the connections to HOST:PORT over IPv4 for which the kernel's keepalive timer runs, and the
// number of all.
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
