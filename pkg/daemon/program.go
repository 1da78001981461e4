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
	// Name of the program: lower-case letters.
	Name string
	// Metrics is the prefix of the names of its metrics, without the underscore that follows it.
	Metrics string
	// Summary completes a sentence that begins with the name, for -h: "answers …".
	Summary string
	// Also is a line of -h about what the program does besides serving, "" for nothing.
	Also string
	// Load reads and checks the configuration; path is "" without -config. The error has one line
	// for each mistake.
	Load func(path string) (C, error)
	// Check returns the mistakes that Load finds, without those about named files that do not exist.
	Check func(path string) error
	// Admin returns the admin address in a file, even if the file has other mistakes. With an error
	// the address is a default.
	Admin func(path string) (net.Addr, error)
	// Print returns the effective configuration, without secrets.
	Print func(C) ([]byte, error)
	// Schema returns a JSON Schema of the configuration.
	Schema func() ([]byte, error)
	// Settings returns what the frame needs of the configuration.
	Settings func(C) Settings
	// NeedsRestart names the fields that differ and that a reload ignores.
	NeedsRestart func(running, loaded C) []string
	// Start builds the program and adds its components to the Runtime's stack, lowest first. It
	// returns the function that applies a new configuration, nil if none can be applied. After an
	// error the components are stopped. The context ends when the drain begins, not when Start
	// returns.
	Start func(ctx context.Context, rt *Runtime, cfg C) (reload func(C) error, err error)
	// Actions run instead of serving.
	Actions []Action[C]
}

// Settings has the values of a configuration that the frame needs.
type Settings struct {
	Admin net.Addr // of the admin listener
	// DrainDelay is the time from SIGTERM to the drain, in which the program is not ready but still
	// answers. 0 or less means no delay.
	DrainDelay time.Duration
	Drain      time.Duration // time limit of the drain
	LogLevel   string        // debug, info, warn or error
}

// Action runs instead of serving when its flag is given.
type Action[C any] struct {
	// Flag is the flag's name without the dash, Help its text for -h.
	Flag, Help string
	// Run does it. Output for people goes to stdout. An error is exit code 1. The context ends with
	// the first signal. Components that Run adds to the Runtime are stopped afterwards.
	Run func(ctx context.Context, rt *Runtime, cfg C) error
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // a failed start, an exited component, a second signal
	exitUsage  = 2 // bad usage or configuration
)

// Main runs the program with the arguments, without the program's own name. It returns the exit
// code: 0 for a clean stop, 2 for bad usage or configuration, 1 for everything else.
func Main[C any](args []string, p Program[C]) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	return run(args, p, process{os.Stdout, os.Stderr, signals})
}

// process has the streams and signals of the operating system process.
type process struct {
	stdout, stderr io.Writer
	signals        <-chan os.Signal
}
