// Command keyctl is the operator's command line: it makes accounts, mints,
// imports, rolls and revokes keys, begins and ends sessions, and shows the
// sidecars and the audit, over the operator API of keyd.
//
// What it knows is one table (commands.go): the help, the check of the flags and
// the requests come from it. A new command is a row there.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

// The exit codes.
const (
	exitDone         = 0
	exitFailed       = 1 // refused, or failed
	exitUsage        = 2
	exitNotEffective = 3 // done, but not yet effective when -wait ran out
)

func main() {
	// A closed pipe must be an error and not a silent death: a key that was minted and
	// could not be printed has to be told of.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	code := run(ctx, os.Args[1:], os.Getenv, console{out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stderr)})
	os.Exit(code)
}

// console is where things are printed.
type console struct {
	out, err io.Writer
	terminal bool // err is one: lines may be written over
}

// say prints a message for people.
func (c console) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.err, "keyctl: "+format+"\n", args...)
}

// warnings is a logger whose lines are for people, as say's are.
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

// run does what the arguments say and returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, con console) int {
	line := parse(args)
	if line.version {
		_, _ = fmt.Fprintln(con.out, "keyctl", daemon.Version())
		return exitDone
	}
	if len(line.words) > 0 && line.words[0] == "help" {
		line.help, line.words = true, line.words[1:]
	}
	if line.help {
		return printHelp(con, line.words)
	}
	cmd, problem := findCommand(line.words)
	if cmd == nil {
		con.say("%s", problem)
		_, _ = fmt.Fprint(con.err, shortUsage(line.words))
		return exitUsage
	}
	cmd = line.form(cmd)
	opts, problems := line.read(getenv)
	problems = append(line.check(cmd), problems...)
	if len(problems) == 0 {
		s, err := connect(opts, con)
		if err == nil {
			defer s.client.Close()
			return s.do(ctx, cmd)
		}
		problems = []string{err.Error()}
	}
	con.say("%s", strings.Join(problems, "\nkeyctl: "))
	_, _ = fmt.Fprint(con.err, "usage: ", cmd.usage(), "\n")
	return exitUsage
}
