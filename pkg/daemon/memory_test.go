package daemon

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestMemoryLimitOfTheCgroup(t *testing.T) {
	const (
		self   = "proc/self/cgroup"
		v1     = "sys/fs/cgroup/memory/"
		v2     = "sys/fs/cgroup/"
		none   = math.MaxInt64
		unused = "9223372036854771712\n" // of version 1 without a limit
	)
	for name, tt := range map[string]struct {
		files map[string]string
		want  int64
		logs  int
	}{
		"no cgroups":              {nil, none, 0},
		"version 2":               {map[string]string{self: "0::/\n", v2 + "memory.max": "268435456\n"}, 268435456 / 100 * 90, 1},
		"without a limit":         {map[string]string{self: "0::/\n", v2 + "memory.max": "max\n"}, none, 0},
		"top of version 2":        {map[string]string{self: "0::/\n"}, none, 0},
		"a cgroup further down":   {map[string]string{self: "0::/a/b\n", v2 + "a/b/memory.max": "100000000\n", v2 + "a/memory.max": "200000000\n"}, 90000000, 1},
		"a lower limit above":     {map[string]string{self: "0::/a/b\n", v2 + "a/b/memory.max": "200000000\n", v2 + "a/memory.max": "100000000\n"}, 90000000, 1},
		"path of the host":        {map[string]string{self: "0::/kubepods/pod1\n", v2 + "memory.max": "100000000\n"}, 90000000, 1},
		"path above the top":      {map[string]string{self: "0::/../../..\n", v2 + "memory.max": "100000000\n"}, 90000000, 1},
		"version 1":               {map[string]string{self: "5:cpu,memory:/a\n1:cpu:/\n", v1 + "a/memory.limit_in_bytes": "100000000\n", v1 + "memory.limit_in_bytes": unused}, 90000000, 1},
		"version 1 without limit": {map[string]string{self: "5:memory:/\n", v1 + "memory.limit_in_bytes": unused}, none, 0},
		"both versions":           {map[string]string{self: "5:memory:/\n0::/\n", v1 + "memory.limit_in_bytes": "100000000\n", v2 + "memory.max": "50000000\n"}, 90000000, 1},
		"not a number":            {map[string]string{self: "0::/\n", v2 + "memory.max": "256M\n"}, none, 1},
		"negative":                {map[string]string{self: "0::/\n", v2 + "memory.max": "-1\n"}, none, 1},
		"empty":                   {map[string]string{self: "0::/\n", v2 + "memory.max": ""}, none, 1},
		"zero":                    {map[string]string{self: "0::/\n", v2 + "memory.max": "0\n"}, none, 1},
		"too small":               {map[string]string{self: "0::/\n", v2 + "memory.max": "1048576\n"}, none, 1},
		"beyond 64 bits":          {map[string]string{self: "0::/\n", v2 + "memory.max": "99999999999999999999\n"}, none, 1},
		"malformed lines":         {map[string]string{self: "\n0\n::\nx:y\n"}, none, 0},
		"unreadable":              {map[string]string{self: "0::/\n", v2 + "memory.max/x": ""}, none, 1}, // a folder
		"unreadable cgroup":       {map[string]string{self + "/x": ""}, none, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", "") // restores it
			if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
				t.Fatal(err)
			}
			if got, logs := limitedMemory(t, tt.files); got != tt.want || len(logs) != tt.logs {
				t.Errorf("limit is %d, want %d; logged %v", got, tt.want, logs)
			}
		})
	}
}

func TestMemoryLimitOfTheEnvironmentTakesPrecedence(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "1GiB")
	if got, logs := limitedMemory(t, map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "100000000\n"}); got != math.MaxInt64 || len(logs) > 0 {
		t.Errorf("limit is %d, logged %v", got, logs)
	}
}

// limitedMemory calls limitMemory with files below a temporary root. It returns the limit and what was logged.
func limitedMemory(t *testing.T, files map[string]string) (int64, []observer.LoggedEntry) {
	t.Helper()
	old := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(old)
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	core, logs := observer.New(zapcore.InfoLevel)
	limitMemory(zap.New(core), root)
	return debug.SetMemoryLimit(-1), logs.All()
}
