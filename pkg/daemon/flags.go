package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
)

// command runs instead of serving when its flag is given.
type command[C any] struct {
	flag, help string
	run        func(p Program[C], config string, proc process) error
}

const (
	checkFlag     = "check"
	skipFilesFlag = "skip-files"
)

func commandsOf[C any](p Program[C]) []command[C] {
	list := []command[C]{
		{checkFlag, "check the configuration and the files that it names; print only mistakes", check[C]},
		{"print-config", "print the effective configuration with all defaults, without secrets", printConfig[C]},
		{"print-schema", "print a JSON Schema of the configuration, for editors", printSchema[C]},
		{"healthcheck", "request /readyz of the running program; exit 0 or 1", healthcheck[C]},
		{"version", "print the version", printVersion[C]},
	}
	for _, a := range p.Actions {
		list = append(list, command[C]{a.Flag, a.Help, func(p Program[C], config string, proc process) error {
			return act(p, a, config, proc)
		}})
	}
	return list
}

// run parses the arguments, runs what they request, and returns the exit code.
func run[C any](args []string, p Program[C], proc process) int {
	set := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	config := set.String("config", "", "configuration `FILE` (YAML)")
	skipFiles := set.Bool(skipFilesFlag, false, "with -"+checkFlag+": named secret and certificate files need not exist")
	commands := commandsOf(p)
	for _, c := range commands {
		set.Bool(c.flag, false, c.help)
	}
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		printUsage(p, set, proc.stdout)
		return exitOK
	case err != nil:
		return usageError(p, proc, err.Error())
	case set.NArg() > 0:
		return usageError(p, proc, fmt.Sprintf("argument %q is invalid: must be a flag", set.Arg(0)))
	}
	commands = slices.DeleteFunc(commands, func(c command[C]) bool { return set.Lookup(c.flag).Value.String() != "true" })
	switch {
	case len(commands) > 1:
		return usageError(p, proc, fmt.Sprintf("-%s is invalid: must not be used with -%s", commands[1].flag, commands[0].flag))
	case *skipFiles && (len(commands) == 0 || commands[0].flag != checkFlag):
		return usageError(p, proc, "-"+skipFilesFlag+" is invalid: must be used with -"+checkFlag)
	case len(commands) == 0:
		return serve(p, *config, proc)
	case *skipFiles:
		return exitCode(p, proc, checkWithoutFiles(p, *config))
	}
	return exitCode(p, proc, commands[0].run(p, *config, proc))
}

func usageError[C any](p Program[C], proc process, message string) int {
	_, _ = fmt.Fprintf(proc.stderr, "%s: %s\n%s -h lists all flags.\n", p.Name, message, p.Name)
	return exitUsage
}

func printUsage[C any](p Program[C], set *flag.FlagSet, w io.Writer) {
	_, _ = fmt.Fprintf(w, "%s %s\n\nUsage: %s [-config FILE] [FLAG]\n\n", p.Name, p.Summary, p.Name)
	_, _ = fmt.Fprint(w, "Without a further flag it serves until SIGTERM or SIGINT. SIGHUP reloads the configuration.\n\n")
	if p.Also != "" {
		_, _ = fmt.Fprint(w, p.Also, "\n\n")
	}
	set.SetOutput(w)
	set.PrintDefaults()
	_, _ = fmt.Fprintln(w, "\nExit code: 0 done or stopped cleanly, 1 failed, 2 bad usage or configuration.")
}

// configError is a configuration with mistakes, one on each line.
type configError struct{ error }

func (e configError) Error() string { return "invalid configuration\n" + e.error.Error() }

// exitCode prints the error and returns its exit code.
func exitCode[C any](p Program[C], proc process, err error) int {
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(proc.stderr, "%s: %s\n", p.Name, err)
	if _, ok := errors.AsType[configError](err); ok {
		return exitUsage
	}
	return exitFailed
}

func load[C any](p Program[C], config string) (C, error) {
	cfg, err := p.Load(config)
	if err != nil {
		err = configError{err}
	}
	return cfg, err
}

func check[C any](p Program[C], config string, _ process) error {
	_, err := load(p, config)
	return err
}

func checkWithoutFiles[C any](p Program[C], config string) error {
	if err := p.Check(config); err != nil {
		return configError{err}
	}
	return nil
}

func printConfig[C any](p Program[C], config string, proc process) error {
	cfg, err := load(p, config)
	if err != nil {
		return err
	}
	return printText(proc, func() ([]byte, error) { return p.Print(cfg) })
}

func printSchema[C any](p Program[C], _ string, proc process) error {
	return printText(proc, p.Schema)
}

func printText(proc process, text func() ([]byte, error)) error {
	out, err := text()
	if err == nil {
		_, err = proc.stdout.Write(out)
	}
	return err
}

func printVersion[C any](p Program[C], _ string, proc process) error {
	_, err := fmt.Fprintln(proc.stdout, p.Name, Version())
	return err
}

// act runs one of the program's own actions.
func act[C any](p Program[C], a Action[C], config string, proc process) error {
	cfg, err := load(p, config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for {
			select {
			case sig := <-proc.signals:
				if sig != os.Signal(syscall.SIGHUP) {
					cancel()
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	defer surviveSIGPIPE()()
	settings := p.Settings(cfg)
	rt := newRuntime(p.Metrics, settings.LogLevel, proc.stderr)
	err = guard(func() error { return a.Run(ctx, rt, cfg) })
	err = errors.Join(err, rt.stop(settings.Drain))
	rt.lines.flush(flushTimeout)
	if err != nil {
		return fmt.Errorf("-%s: %w", a.Flag, err)
	}
	return nil
}
