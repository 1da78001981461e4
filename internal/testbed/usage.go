package testbed

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Resident returns the memory that a process has now, in bytes.
func Resident(pid int) (int64, error) { return memory(pid, "VmRSS") }

// PeakResident returns the most memory that a process has had so far, in bytes.
func PeakResident(pid int) (int64, error) { return memory(pid, "VmHWM") }

func memory(pid int, field string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(status), field+":")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); !found || err != nil {
		return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
	}
	return kib << 10, nil
}

// clockTick is the unit of times in /proc, on every Linux that Go supports.
const clockTick = 10 * time.Millisecond

// CPU returns the processor time that a process has used so far.
func CPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name of the program is in parentheses and may contain any character.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const utime, stime = 11, 12 // after the name
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/%d/stat has no times", pid)
	}
	var user, system int64
	if _, err := fmt.Sscan(fields[utime]+" "+fields[stime], &user, &system); err != nil {
		return 0, fmt.Errorf("/proc/%d/stat has no times: %w", pid, err)
	}
	return time.Duration(user+system) * clockTick, nil
}
