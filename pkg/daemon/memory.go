package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

const (
	// memoryShare is the percentage of the cgroup's limit that the Go runtime may use. Larger risks that
	// the kernel kills the process, because the limit also covers the program's file and the buffers of
	// its sockets; smaller collects garbage more often near the limit.
	memoryShare = 90
	// leastMemory is the least limit of a cgroup in bytes that is obeyed. Programs here need some 20 MiB
	// at their start. Smaller makes the collector run all the time; larger ignores limits that suffice.
	leastMemory = 32 << 20
)

// LimitMemory sets the soft memory limit of the Go runtime (GOMEMLIMIT) to 90% of the memory limit of the
// process's cgroup, so that garbage is collected more often before the kernel kills the process. Without
// a limit it changes nothing. GOMEMLIMIT in the environment takes precedence. A limit that cannot be read
// or that is below 32 MiB is logged and ignored.
//
// It must not be called by a program that shares its process with one that is not written in Go: the
// limit covers the memory of both.
func LimitMemory(log *zap.Logger) { limitMemory(log, "/") }

// limitMemory is LimitMemory with the files below another root.
func limitMemory(log *zap.Logger, root string) {
	if _, set := os.LookupEnv("GOMEMLIMIT"); set {
		return
	}
	limit, file, err := cgroupLimit(root)
	switch {
	case err != nil:
		log.Warn("memory limit of the cgroup cannot be read: ignored", zap.Error(err))
	case limit == math.MaxInt64:
	case limit < leastMemory:
		log.Warn("memory limit of the cgroup is too small: ignored", zap.Int64("bytes", limit), zap.Int("least", leastMemory), zap.String("file", file))
	default:
		soft := limit / 100 * memoryShare
		debug.SetMemoryLimit(soft)
		log.Info("memory limit set from the cgroup", zap.Int64("bytes", soft), zap.String("file", file))
	}
}

// cgroupLimit returns the least memory limit in bytes of the process's cgroup and of those above it, and
// its file. Without one it returns math.MaxInt64.
//
// In a container the path of the cgroup may be that of the host, which is not mounted. Then the mounted
// folder is the cgroup itself.
func cgroupLimit(root string) (limit int64, file string, err error) {
	limit = math.MaxInt64
	top, cgroup, name, err := memoryCgroup(root)
	if err != nil || top == "" {
		return limit, "", err
	}
	for dir := filepath.Join(top, cgroup); ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, name)
		n, err := readLimit(path)
		if err != nil {
			return 0, "", err
		}
		if n < limit {
			limit, file = n, path
		}
		if dir == top {
			return limit, file, nil
		}
	}
}

// memoryCgroup finds the process's cgroup in /proc/self/cgroup (cgroups(7)): the folder where the memory
// controller is mounted, the cgroup's path in it and the name of the files with limits. Top is empty if
// there is none.
func memoryCgroup(root string) (top, cgroup, name string, err error) {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", "", nil // not Linux
	}
	for line := range strings.Lines(string(text)) {
		// HIERARCHY:CONTROLLERS:PATH
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) < 3 {
			continue
		}
		path := filepath.Clean("/" + parts[2]) // never above top
		switch {
		case slices.Contains(strings.Split(parts[1], ","), "memory"): // version 1, also beside version 2
			return filepath.Join(root, "sys/fs/cgroup/memory"), path, "memory.limit_in_bytes", err
		case parts[0] == "0":
			top, cgroup, name = filepath.Join(root, "sys/fs/cgroup"), path, "memory.max"
		}
	}
	return top, cgroup, name, err
}

// readLimit reads a limit in bytes. It returns math.MaxInt64 if the file does not exist or has no limit.
func readLimit(path string) (int64, error) {
	// unlimited is less than what version 1 shows without a limit: the greatest multiple of a page.
	const unlimited = 1 << 62
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return math.MaxInt64, nil
	}
	if err != nil {
		return 0, err
	}
	value := strings.TrimSpace(string(text))
	if value == "max" {
		return math.MaxInt64, nil
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is %q: must be a number of bytes or max", path, value)
	}
	if n >= unlimited {
		return math.MaxInt64, nil
	}
	return int64(n), nil
}
