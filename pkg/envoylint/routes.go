package envoylint

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"text/tabwriter"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Route is a route with its requirement.
type Route struct {
	File        string `json:"file"`
	Listener    string `json:"listener"`
	Host        string `json:"virtual_host"`
	Match       string `json:"match"`
	To          string `json:"to"` // cluster, redirect or direct response
	Requirement string `json:"requirement"`
	Source      string `json:"source"` // where the requirement is
}

// requirement returns the requirement of a route and its source. ext_authz merges the fields of all
// levels; the module gets those of the most specific level alone.
func (l *linter) requirement(m *manager, route node, outer ...node) (requirement, source string) {
	check := m.filters[m.check]
	merged := map[string]any{}
	disabled := false
	// From the least specific to the most.
	for _, level := range append(outer, route) {
		settings := level.at("typed_per_filter_config").at(check.name)
		kind, config := settings.typed()
		if !settings.exists() {
			continue
		}
		disabled = config.at("disabled").isTrue()
		fields, _ := extensionsOf(kind, config).value.(map[string]any)
		if check.isModule() {
			merged = map[string]any{}
		}
		maps.Copy(merged, fields)
	}
	r := extensions{node{value: merged}}
	switch set, ok := r.route(); {
	case disabled:
		return "not checked", "disabled"
	case r.redacted():
		return strings.Join(sortedKeys(merged), ", ") + " (values redacted)", "route"
	case set && ok:
		return requirementText(r.requirement().Parse()), "route"
	case set:
		return "invalid: denied", "route"
	case len(l.Endpoints) > 0:
		return "by method, host and path", "endpoints of authzd"
	}
	return "none: denied", "-"
}

// requirementText returns a requirement in words: "any with chat:companion".
func requirementText(r policy.Requirement) string {
	text := map[policy.Principal]string{policy.Any: "any", policy.KeyOnly: "key", policy.SessionOnly: "session"}[r.Principal]
	if scopes := r.Scopes(); len(scopes) > 0 {
		text += " with " + strings.Join(scopes, " ")
	}
	return text
}

// matchText shows the path of a route and the number of its other conditions.
func matchText(match node) string {
	text, others := "", 0
	for _, f := range match.fields() {
		switch f.name {
		case "path":
			text = f.text()
		case "prefix", "path_separated_prefix", "pathSeparatedPrefix":
			text = f.text() + "*"
			if f.name != "prefix" {
				text = f.text() + "/*"
			}
		case "safe_regex", "safeRegex":
			text = "regex " + f.at("regex").text()
		default:
			others++
		}
	}
	if text == "" {
		text = match.shown()
	} else if others > 0 {
		text += fmt.Sprintf(" +%d", others)
	}
	return text
}

func target(route node) string {
	switch {
	case route.at("redirect").exists():
		return "redirect"
	case route.at("direct_response").exists():
		return "direct response"
	case route.in("route", "cluster").exists():
		return route.in("route", "cluster").text()
	}
	return "several clusters"
}

// WriteFindings writes the findings for people.
func (r Report) WriteFindings(w io.Writer) error {
	for _, f := range r.Findings {
		if _, err := fmt.Fprintf(w, "%s: %s: %s: %s\n    found:    %s\n    required: %s\n    why:      %s\n",
			f.File, f.Location, f.Severity, f.Rule, f.Found, f.Required, f.Why); err != nil {
			return err
		}
	}
	return nil
}

// WriteRoutes writes the table of routes for people, and the endpoints of authzd, which apply to routes
// without a requirement.
func (r Report) WriteRoutes(w io.Writer, endpoints []policy.Endpoint) error {
	if len(r.Routes) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "VIRTUAL HOST\tMATCH\tTO\tREQUIREMENT\tFROM")
	for _, row := range r.Routes {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", row.Host, row.Match, row.To, row.Requirement, row.Source)
	}
	for _, e := range endpoints {
		match := e.Path
		if e.Prefix {
			match = strings.TrimSuffix(match, "/") + "/*"
		}
		if len(e.Methods) > 0 {
			match = strings.Join(e.Methods, ",") + " " + match
		}
		host := e.Host
		if host == "" {
			host = "*"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t\t%s\t%s\n", host, match, requirementText(e.Requirement), "endpoints of authzd")
	}
	return t.Flush()
}
