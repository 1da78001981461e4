package main

import (
	"os"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

// A renamed panel would otherwise fail after three minutes of load.
func TestDrawnPanelsExist(t *testing.T) {
	panels, err := readPanels("../../monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/dashboard.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, title := range drawn {
		p, ok := panels[title]
		if !ok {
			t.Errorf("the dashboard has no panel %s", title)
		}
		if unit := p.FieldConfig.Defaults.Unit; units[unit] == "" {
			t.Errorf("%s: unknown unit %q", title, unit)
		}
		if !strings.Contains(string(page), "!["+title+"](dashboard/"+fileName(title)+")") {
			t.Errorf("docs/dashboard.md does not show %s", title)
		}
	}
	for _, p := range panels {
		for _, target := range p.Targets {
			if query := replaceVariables(target.Expr); strings.Contains(query, "$") {
				t.Errorf("%s: a variable is not replaced: %s", p.Title, query)
			}
		}
	}
}

func TestGreatestLinesAreDrawn(t *testing.T) {
	line := func(name string, values ...float64) result.Line { return result.Line{Name: name, Values: values} }
	var names []string
	for _, l := range greatest([]result.Line{line("a", 1), line("zero", 0), line("b", 0, 5), line("c", 2), line("d", 2), line("e", 3)}) {
		names = append(names, l.Name)
	}
	if got := strings.Join(names, " "); got != "b e c d" {
		t.Errorf("drawn are %s", got)
	}
	if got := greatest([]result.Line{line("zero", 0), line("none", 0)}); len(got) != 1 {
		t.Errorf("%d lines of zeros are drawn", len(got))
	}
}
