// Command keyctl is the operators' command line for the key API: it creates accounts, mints,
// imports, rolls and revokes keys, creates and ends sessions, and lists the sidecars and the audit.
//
// The table in commands.go holds the commands of the key API, and flags.go their flags. A new command is
// a row there. explain.go asks a sidecar.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// The exit codes.
const (
	exitDone         = 0
	exitFailed       = 1 // rejected or failed
	exitUsage        = 2
	exitNotEffective = 3 // done, but not yet effective when -wait ran out
)

func main() {
	// With SIGPIPE ignored, a closed pipe is an error of Write. A key that was minted but could not
	// be printed is then reported.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
	code := run(ctx, os.Args[1:], os.Getenv, console{out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stderr)})
	os.Exit(code)
}

// console is where output goes.
type console struct {
	out, err io.Writer
	terminal bool // err is a terminal, so a line can be overwritten
}

// say prints a message for people.
func (c console) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.err, "keyctl: "+format+"\n", args...)
}

// warnings returns a logger that prints warnings in the form of say.
func (c console) warnings() *zap.Logger {
	lines := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{
		LevelKey: "level", MessageKey: "message", ConsoleSeparator: " ", LineEnding: "\n",
		EncodeLevel: func(_ zapcore.Level, line zapcore.PrimitiveArrayEncoder) { line.AppendString("keyctl: warning:") },
	})
	return zap.New(zapcore.NewCore(lines, zapcore.AddSync(c.err), zap.WarnLevel))
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
