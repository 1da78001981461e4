package bench

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

// machine describes this machine. What /proc does not have is empty.
func machine() result.Machine {
	var kib float64
	if fields := strings.Fields(field("/proc/meminfo", "MemTotal")); len(fields) > 0 {
		kib, _ = strconv.ParseFloat(fields[0], 64)
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return result.Machine{
		Processor: field("/proc/cpuinfo", "model name"),
		Cores:     runtime.NumCPU(),
		MemoryGiB: int(math.Round(kib / (1 << 20))),
		Kernel:    strings.TrimSpace(string(kernel)),
		Go:        runtime.Version(),
		Date:      time.Now().UTC().Format(time.DateOnly),
	}
}

// field returns the value of the first line NAME: VALUE of a file.
func field(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
