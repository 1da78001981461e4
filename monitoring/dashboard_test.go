package monitoring

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Datasource               struct{ UID string }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ RefID, Expr, LegendFormat string }
}

// dashboard returns the panels of dashboard.json, and the names of its variables.
func dashboard(t *testing.T) (panels []panel, variables []string) {
	t.Helper()
	var file struct {
		Panels     []panel
		Templating struct {
			List []struct {
				Name       string
				Definition string
			}
		}
	}
	text, err := os.ReadFile("dashboard.json")
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Panels) < 20 {
		t.Fatalf("dashboard.json has only %d panels", len(file.Panels))
	}
	for _, v := range file.Templating.List {
		variables = append(variables, v.Name)
		query := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Definition)
		if v.Name == "datasource" {
			continue
		}
		if query == nil {
			t.Errorf("variable %s has the query %q", v.Name, v.Definition)
			continue
		}
		for _, problem := range unknown(t, exported(t), replaceVariables(query[1])) {
			t.Errorf("variable %s: %s", v.Name, problem)
		}
	}
	return file.Panels, variables
}

var variable = regexp.MustCompile(`\$(\w+)`)

// replaceVariables returns the query that Grafana sends if all values are selected.
func replaceVariables(query string) string {
	return variable.ReplaceAllString(strings.ReplaceAll(query, "$__rate_interval", "1m"), ".*")
}

// A misspelt name, label or variable selects nothing, and such a panel is empty.
func TestDashboardUsesExportedMetrics(t *testing.T) {
	panels, variables := dashboard(t)
	known := exported(t)
	for _, p := range panels {
		for _, target := range p.Targets {
			for _, problem := range unknown(t, known, replaceVariables(target.Expr)) {
				t.Errorf("%s: %s", p.Title, problem)
			}
			for _, used := range variable.FindAllStringSubmatch(target.Expr, -1) {
				if used[1] != "__rate_interval" && !slices.Contains(variables, used[1]) {
					t.Errorf("%s: unknown variable %s", p.Title, used[0])
				}
			}
			if problem := legendProblem(t, target.Expr, target.LegendFormat); problem != "" {
				t.Errorf("%s: %s", p.Title, problem)
			}
		}
	}
}

// legendProblem reports a label of the legend that an aggregation of the query removes: its place is empty.
func legendProblem(t *testing.T, query, legend string) string {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(replaceVariables(query))
	if err != nil {
		return err.Error()
	}
	var grouping []string
	aggregated := false
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if a, ok := node.(*parser.AggregateExpr); ok {
			aggregated = true
			grouping = append(grouping, a.Grouping...)
		}
		return nil
	})
	for _, label := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(legend, -1) {
		if aggregated && !slices.Contains(grouping, label[1]) {
			return "the query removes the label " + label[1] + " of the legend " + legend
		}
	}
	return ""
}

func TestPanelsAreComplete(t *testing.T) {
	panels, _ := dashboard(t)
	ids := map[int]bool{}
	cells := map[[2]int]string{}
	for _, p := range panels {
		if p.ID == 0 || ids[p.ID] {
			t.Errorf("%s: id %d is missing or used twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Title == "" {
			t.Errorf("panel %d has no title", p.ID)
		}
		g := p.GridPos
		if g.X < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%s: %+v is not in the grid of 24 columns", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, taken := cells[[2]int{x, y}]; taken {
					t.Fatalf("%s overlaps %s", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: must have a description, a unit, a query and the data source of the variable", p.Title)
		}
	}
}

// The dashboard is the next place to look after an alert.
func TestDashboardShowsMetricsOfAlerts(t *testing.T) {
	shown := map[string]bool{}
	panels, _ := dashboard(t)
	for _, p := range panels {
		for _, target := range p.Targets {
			maps.Copy(shown, metrics(t, replaceVariables(target.Expr)))
		}
	}
	for _, r := range rules(t) {
		for name := range metrics(t, r.Expr) {
			if !strings.Contains(name, ":") && !shown[name] {
				t.Errorf("%s%s: no panel shows %s", r.Alert, r.Record, name)
			}
		}
	}
}

// metrics returns the names that a query selects.
func metrics(t *testing.T, query string) map[string]bool {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			names[selector.Name] = true
		}
		return nil
	})
	return names
}
