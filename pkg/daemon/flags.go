package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
)

// mode is one of the flags that say what to do instead of serving.
type mode[C any] struct {
	name, help string
	run        func(p Program[C], config string, os process) int
}

// Flags that stand together.
const (
	checkFlag     = "check"
	skipFilesFlag = "skip-files"
)

// modes returns all flags of the program but -config, -skip-files and -h.
func modes[C any](p Program[C]) []mode[C] {
	list := []mode[C]{
		{checkFlag, "check the configuration and the files that it names; silent if all is well", check[C]},
		{"print-config", "print the effective configuration with all defaults, without secrets", printConfig[C]},
		{"healthcheck", "ask the running program whether it is ready; exit 0 or 1", healthcheck[C]},
		{"version", "print the version", printVersion[C]},
	}
	for _, a := range p.Actions {
		list = append(list, mode[C]{a.Flag, a.Help, func(p Program[C], config string, os process) int {
			return act(p, a, config, os)
		}})
	}
	return list
}

// run parses the arguments and does what they ask for.
func run[C any](args []string, p Program[C], os process) int {
	set := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	config := set.String("config", "", "")
	skipFiles := set.Bool(skipFilesFlag, false, "")
	all := modes(p)
	chosen := make([]*bool, len(all))
	for i, m := range all {
		chosen[i] = set.Bool(m.name, false, "")
	}
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		usage(os.stdout, p)
		return exitOK
	case err != nil:
		return misused(p, os, err.Error())
	case set.NArg() > 0:
		return misused(p, os, fmt.Sprintf("found the argument %q, allowed are flags only", set.Arg(0)))
	}
	todo, names := serve[C], []string{}
	for i, m := range all {
		if *chosen[i] {
			todo, names = m.run, append(names, "-"+m.name)
		}
	}
	if len(names) > 1 {
		return misused(p, os, "found "+strings.Join(names, " and ")+", allowed is one of them")
	}
	if *skipFiles {
		if !slices.Equal(names, []string{"-" + checkFlag}) {
			return misused(p, os, "-"+skipFilesFlag+" is invalid: must stand with -"+checkFlag)
		}
		todo = checkWithoutFiles[C]
	}
	return todo(p, *config, os)
}

func misused[C any](p Program[C], os process, what string) int {
	_, _ = fmt.Fprintf(os.stderr, "%s: %s\n%s -h shows all flags.\n", p.Name, what, p.Name)
	return exitUsage
}

func usage[C any](w io.Writer, p Program[C]) {
	var b strings.Builder
	line := func(flag, help string) { fmt.Fprintf(&b, "  %-14s  %s\n", flag, help) }
	fmt.Fprintf(&b, "%s %s\n\n", p.Name, p.Summary)
	fmt.Fprintf(&b, "Usage: %s [-config FILE] [FLAG]\n\nWithout a flag of these it serves until SIGTERM or SIGINT; SIGHUP reloads.\n\n", p.Name)
	line("-config FILE", "the configuration (YAML)")
	for _, m := range modes(p) {
		line("-"+m.name, m.help)
	}
	line("-"+skipFilesFlag, "with -"+checkFlag+": secret and certificate files need not exist")
	line("-h", "print this")
	b.WriteString("\nExit: 0 done or stopped cleanly, 1 failed, 2 bad usage or configuration.\n")
	_, _ = io.WriteString(w, b.String())
}

// load loads the configuration and tells people what is wrong with it.
func load[C any](p Program[C], config string, os process) (C, bool) {
	cfg, err := p.Load(config)
	return cfg, accepted(p, err, os)
}

// accepted reports whether the configuration is without mistakes, and prints them.
func accepted[C any](p Program[C], err error, os process) bool {
	if err != nil {
		_, _ = fmt.Fprintf(os.stderr, "%s: bad configuration\n%s\n", p.Name, err)
	}
	return err == nil
}

func check[C any](p Program[C], config string, os process) int {
	if _, ok := load(p, config, os); !ok {
		return exitUsage
	}
	return exitOK
}

func checkWithoutFiles[C any](p Program[C], config string, os process) int {
	if !accepted(p, p.Check(config), os) {
		return exitUsage
	}
	return exitOK
}

func printConfig[C any](p Program[C], config string, os process) int {
	cfg, ok := load(p, config, os)
	if !ok {
		return exitUsage
	}
	text, err := p.Print(cfg)
	if err == nil {
		_, err = os.stdout.Write(text)
	}
	if err != nil {
		_, _ = fmt.Fprintf(os.stderr, "%s: %s\n", p.Name, err)
		return exitFailed
	}
	return exitOK
}

func printVersion[C any](p Program[C], _ string, os process) int {
	_, _ = fmt.Fprintln(os.stdout, p.Name, Version())
	return exitOK
}

// act runs one of the program's own actions.
func act[C any](p Program[C], a Action[C], config string, proc process) int {
	cfg, ok := load(p, config, proc)
	if !ok {
		return exitUsage
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
	rt := newRuntime(p.Name, settings.LogLevel, proc.stderr)
	err := guard(func() error { return a.Run(ctx, rt, cfg) })
	err = errors.Join(err, rt.stop(settings.Drain))
	rt.lines.flush(flushTimeout)
	if err != nil {
		_, _ = fmt.Fprintf(proc.stderr, "%s: -%s: %s\n", p.Name, a.Flag, err)
		return exitFailed
	}
	return exitOK
}
