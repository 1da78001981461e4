package bench

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
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

// Meter measures the duration of a run, and how much of the cores other programs use meanwhile.
type Meter struct {
	began  time.Time
	before load
}

// StartMeter starts a meter.
func StartMeter() Meter { return Meter{time.Now(), loadNow()} }

// Describe sets the machine, the duration and the share of other programs. The processes that the run has started must have been
// waited for: until then they are other programs.
func (m Meter) Describe(f *result.File) {
	took := time.Since(m.began)
	f.Machine, f.Seconds = machine(), took.Round(time.Second).Seconds()
	f.Others = math.Round(1000*loadNow().othersSince(m.before, took)) / 1000
}

// CPUOfAll returns the processor time that all programs of the machine have used since its start.
func CPUOfAll() time.Duration { return loadNow().all }

// load is the processor time that has been used until now: by all programs, and by this one with its ended child processes.
type load struct{ all, own time.Duration }

func loadNow() (l load) {
	const tick = 10 * time.Millisecond // of times in /proc/stat
	text, _ := os.ReadFile("/proc/stat")
	for i, field := range strings.Fields(string(text)) {
		if 1 <= i && i <= 3 { // user, nice, system of all cores
			ticks, _ := strconv.Atoi(field)
			l.all += time.Duration(ticks) * tick
		}
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		_ = syscall.Getrusage(who, &usage) // it fails only for other arguments
		l.own += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return l
}

// othersSince returns the share of all cores that other programs have used since then.
func (l load) othersSince(before load, took time.Duration) float64 {
	others := (l.all - before.all) - (l.own - before.own)
	return max(0, others.Seconds()) / took.Seconds() / float64(runtime.NumCPU())
}
