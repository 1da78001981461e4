package envoylint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Options are what the configuration must fit to. The zero Options has no origin, so that every CORS
// policy is reported.
type Options struct {
	// Origin is web_app.origin of authzd.
	Origin string
	// KeyAPITimeout is key_api.timeout of authzd.
	KeyAPITimeout time.Duration
	// Endpoints is authzd's table, for routes that name no requirement.
	Endpoints []policy.Endpoint
	// Listeners names the listeners to check; empty means all. A mesh has listeners of its own.
	Listeners []string
	// Ignore names the rules that are not reported.
	Ignore []string
}

// Severity of a finding.
type Severity string

// The severities. An Error breaks the proof of revocation or the contract. A Warning makes denials or
// errors likelier, or opens a gap in older or unusual software.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is one violation of a rule.
type Finding struct {
	File     string   `json:"file"`
	Location string   `json:"location"` // in the file, as in jq: static_resources.listeners[0].name
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	Found    string   `json:"found"`
	Required string   `json:"required"`
	Why      string   `json:"why"`
}

// Report is what Lint found in one file.
type Report struct {
	Findings []Finding `json:"findings"`
	Routes   []Route   `json:"routes"`
}

// Lint checks a configuration file or a config_dump. File is its name in the findings. An error means
// that it is neither YAML nor JSON.
func Lint(file string, data []byte, options Options) (Report, error) {
	root, err := parse(data)
	if err != nil {
		return Report{}, fmt.Errorf("%s: %w", file, err)
	}
	l := linter{Options: options, file: file, root: root}
	l.collect(root, "")
	l.managers()
	l.version()
	slices.SortStableFunc(l.report.Findings, func(a, b Finding) int { return cmp.Compare(a.Severity, b.Severity) })
	return l.report, nil
}

// linter has one file and what was found in it.
type linter struct {
	Options
	file   string
	root   node
	report Report

	isDump     bool // config_dump: its bootstrap repeats the listeners
	found      []*manager
	routes     map[string]node // route configurations by name
	extensions map[string]node // filters that Envoy got by discovery, by name
	clusters   map[string]node
	admin      node            // Envoy's admin address
	checked    map[string]bool // clusters that were checked
}

// find reports a violation.
func (l *linter) find(r Rule, at node, format string, args ...any) {
	if slices.Contains(l.Ignore, r.Name) {
		return
	}
	finding := Finding{
		File: l.file, Location: at.path, Rule: r.Name, Severity: r.Severity,
		Found: printable(fmt.Sprintf(format, args...)), Required: r.Required, Why: r.Why,
	}
	if r.Name == corsOrigin.Name {
		finding.Required += " " + l.Origin
	}
	if !slices.Contains(l.report.Findings, finding) {
		l.report.Findings = append(l.report.Findings, finding)
	}
}

// require reports a field that does not have a value.
func (l *linter) require(r Rule, at node, ok bool) {
	if !ok {
		l.find(r, at, "%s", at.shown())
	}
}

// printable replaces characters that a terminal could interpret.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
