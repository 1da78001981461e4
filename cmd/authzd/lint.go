package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/envoylint"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Exit codes of authzd lint.
const (
	exitClean    = 0
	exitFindings = 1
	exitUsage    = 2 // also an unreadable file
)

const lintUsage = `authzd lint checks Envoy's configuration for what authzd relies on.

Usage: authzd lint [FLAG] FILE…

A FILE is a configuration file of Envoy, or the answer of /config_dump of its admin listener; - is
standard input. The findings are followed by a table of the routes with their requirements.

`

// streams are those of the process.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// lintFlags are the flags of authzd lint.
type lintFlags struct {
	config, output, listeners, ignore string
}

// lint runs authzd lint with the arguments after it, and returns the exit code.
func lint(args []string, std streams) int {
	var flags lintFlags
	set := flag.NewFlagSet("authzd lint", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&flags.config, "config", "", "configuration `FILE` of authzd: its web_app.origin, key_api.timeout and endpoints; without it, the defaults")
	set.StringVar(&flags.output, "o", "text", "output `FORMAT`: text or json")
	set.StringVar(&flags.listeners, "listener", "", "check only these listeners: `NAMES` separated by commas")
	set.StringVar(&flags.ignore, "ignore", "", "do not report these rules: `NAMES` separated by commas")
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(std.out, lintUsage)
		set.SetOutput(std.out)
		set.PrintDefaults()
		_, _ = fmt.Fprintln(std.out, "\nExit code: 0 no findings, 1 findings, 2 bad usage or an unreadable file.")
		return exitClean
	case err == nil:
		var report envoylint.Report
		var endpoints []policy.Endpoint
		if report, endpoints, err = flags.lint(set.Args(), std.in); err == nil {
			err = flags.print(report, endpoints, std)
		}
		if err == nil && len(report.Findings) > 0 {
			return exitFindings
		}
	}
	if err != nil {
		_, _ = fmt.Fprintf(std.err, "authzd lint: %s\nauthzd lint -h lists all flags.\n", err)
		return exitUsage
	}
	return exitClean
}

// lint checks the files. The report is that of all files.
func (f lintFlags) lint(files []string, stdin io.Reader) (all envoylint.Report, endpoints []policy.Endpoint, err error) {
	switch {
	case len(files) == 0:
		return all, nil, errors.New("missing FILE")
	case f.output != "text" && f.output != "json":
		return all, nil, fmt.Errorf("-o %q is invalid: must be text or json", f.output)
	}
	cfg, err := config.ReadAuthzd(f.config)
	if err != nil {
		return all, nil, fmt.Errorf("invalid configuration\n%w", err)
	}
	options := envoylint.Options{Origin: cfg.WebApp.Origin, KeyAPITimeout: cfg.KeyAPI.Timeout.Duration, Listeners: list(f.listeners)}
	for _, e := range cfg.Endpoints {
		options.Endpoints = append(options.Endpoints, e.Entry())
	}
	if options.Ignore = list(f.ignore); !envoylint.AreRules(options.Ignore) {
		return all, nil, fmt.Errorf("-ignore %q is invalid: must be names of rules", f.ignore)
	}
	all = envoylint.Report{Findings: []envoylint.Finding{}, Routes: []envoylint.Route{}}
	for _, file := range files {
		data, err := read(file, stdin)
		if err != nil {
			return all, nil, err
		}
		report, err := envoylint.Lint(file, data, options)
		if err != nil {
			return all, nil, err
		}
		all.Findings = append(all.Findings, report.Findings...)
		all.Routes = append(all.Routes, report.Routes...)
	}
	return all, options.Endpoints, nil
}

func (f lintFlags) print(report envoylint.Report, endpoints []policy.Endpoint, std streams) error {
	if f.output == "json" {
		encoder := json.NewEncoder(std.out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	if err := report.WriteFindings(std.out); err != nil {
		return err
	}
	if len(report.Findings) > 0 && len(report.Routes) > 0 {
		_, _ = fmt.Fprintln(std.out)
	}
	return report.WriteRoutes(std.out, endpoints)
}

func read(file string, stdin io.Reader) ([]byte, error) {
	if file != "-" {
		return os.ReadFile(file)
	}
	data, err := io.ReadAll(stdin)
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return data, nil
}

// list splits a flag's value at commas.
func list(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
}
