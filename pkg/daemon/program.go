package daemon

import (
	"context"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Program is one daemon with a configuration of type C.
type Program[C any] struct {
	// Name of the program and the beginning of its metrics' names: lower-case letters.
	Name string
	// Summary is the rest of a sentence that begins with the name, for -h: "answers …".
	Summary string
	// Load reads and checks the configuration; path is "" without -config. The error
	// has one line for each mistake.
	Load func(path string) (C, error)
	// Check returns the mistakes that Load finds, less files that the configuration names and
	// that do not exist, for -check -skip-files.
	Check func(path string) error
	// Admin returns the admin address that a file names, whatever else is wrong with
	// it, for -healthcheck. With an error it is a guess.
	Admin func(path string) (net.Addr, error)
	// Print writes the effective configuration, without secrets.
	Print func(C) ([]byte, error)
	// Settings is what the frame itself needs of the configuration.
	Settings func(C) Settings
	// NeedsRestart names the fields that differ and that a reload cannot take up.
	NeedsRestart func(running, loaded C) []string
	// Start builds the program and adds what runs to the Runtime's stack, lowest
	// first. It returns when everything runs, with the function that takes up a new
	// configuration (nil: nothing can be); an error stops what was added. The context ends when the
	// program is told to stop, not when Start returns.
	Start func(ctx context.Context, rt *Runtime, cfg C) (reload func(C) error, err error)
	// Actions are what the program can do instead of serving.
	Actions []Action[C]
}

// Settings is what the frame needs of a configuration.
type Settings struct {
	Admin net.Addr // of the admin listener
	// DrainDelay is the time from SIGTERM to the drain. The program is not ready, but it
	// still answers. 0 and less: none.
	DrainDelay time.Duration
	Drain      time.Duration // limit of the drain
	LogLevel   string        // debug, info, warn or error
}

// Action is something that a program does and then exits, asked for by a flag of
// its own.
type Action[C any] struct {
	// Flag is its name without the dash, Help what -h says about it.
	Flag, Help string
	// Run does it; what it prints for people goes to stdout. An error is exit code 1. Its
	// context ends with the first signal. What it adds to the Runtime is stopped afterwards.
	Run func(ctx context.Context, rt *Runtime, cfg C) error
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // a failed start, a part that died, a second signal
	exitUsage  = 2 // bad usage or configuration
)

// Main runs the program with the arguments, less the program's own name, and
// returns the exit code: 0 for a clean stop, 2 for bad usage or configuration, 1
// for everything else.
func Main[C any](args []string, p Program[C]) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	return run(args, p, process{os.Stdout, os.Stderr, signals})
}

// process is what a program has of the operating system's.
type process struct {
	stdout, stderr io.Writer
	signals        <-chan os.Signal
}
