package monitoring

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v4"
)

type rule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

// rules returns all rules of alerts.yaml.
func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	load(t, "alerts.yaml", &file)
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// With alerts that always or never fire, a test of each must fail: so each has one where it fires, and one where it does not.
func TestAlertsFireAndDoNotFire(t *testing.T) {
	dir := t.TempDir()
	tests, err := os.ReadFile("alerts_test.yaml")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "alerts_test.yaml"), tests, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	promtool := promtool(t)
	run := func(t *testing.T, alerts []byte) (string, error) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "alerts.yaml"), alerts, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", filepath.Join(dir, "alerts_test.yaml")).CombinedOutput()
		return string(out), err
	}
	alerts, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, alerts); err != nil {
		t.Fatalf("promtool test rules: %v\n%s", err, out)
	}
	for name, expr := range map[string]string{"always": "vector(1)", "never": "vector(1) > 2"} {
		out, err := run(t, replaceExpressions(t, alerts, expr))
		if err == nil {
			t.Errorf("the tests pass with alerts that %s fire", name)
		}
		for _, r := range rules(t) {
			// The failed case expects no alert if the rule always fires, otherwise an alert.
			if r.Alert != "" && !failures(out)[failure{r.Alert, name == "always"}] {
				t.Errorf("%s: its tests pass if it %s fires", r.Alert, name)
			}
		}
	}
}

// failure is a failed case of an alert.
type failure struct {
	alert        string
	noneExpected bool
}

// failures returns what promtool prints.
func failures(out string) map[failure]bool {
	all := map[failure]bool{}
	for _, m := range regexp.MustCompile(`alertname: (\w+), time: [^\n]*\n\s*exp:\[(\]?)`).FindAllStringSubmatch(out, -1) {
		all[failure{m[1], m[2] != ""}] = true
	}
	return all
}

// replaceExpressions returns the rules with another expression of all alerts.
func replaceExpressions(t *testing.T, alerts []byte, expr string) []byte {
	t.Helper()
	var file struct{ Groups []map[string]any }
	if err := yaml.Unmarshal(alerts, &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		for _, r := range group["rules"].([]any) {
			if r := r.(map[string]any); r["alert"] != nil {
				r["expr"] = expr
				delete(r, "for")
			}
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": file.Groups})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAlertsHaveChapters(t *testing.T) {
	runbook, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	chapters := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^## (Phantom\w+)$`).FindAllSubmatch(runbook, -1) {
		chapters[string(m[1])] = true
	}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if !chapters[r.Alert] {
			t.Errorf("docs/runbook.md has no chapter %s", r.Alert)
		}
		delete(chapters, r.Alert)
		if want := "docs/runbook.md#" + strings.ToLower(r.Alert); r.Annotations["runbook"] != want {
			t.Errorf("%s: runbook is %q, want %q", r.Alert, r.Annotations["runbook"], want)
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity is %q: must be critical or warning", r.Alert, s)
		}
		if r.Annotations["summary"] == "" {
			t.Errorf("%s has no summary", r.Alert)
		}
	}
	for name := range chapters {
		t.Errorf("docs/runbook.md has the chapter %s, and alerts.yaml no such alert", name)
	}
}

// A misspelt name or label selects nothing, and such an alert never fires.
func TestRulesUseExportedMetrics(t *testing.T) {
	known := exported(t)
	for _, r := range rules(t) {
		if r.Record != "" {
			known[r.Record] = nil
		}
	}
	for _, r := range rules(t) {
		for _, problem := range unknown(t, known, r.Expr) {
			t.Errorf("%s%s: %s", r.Alert, r.Record, problem)
		}
	}
	for _, bad := range []string{"phantom_authz_checks", `phantom_authz_checks_total{reasons="ok"}`, `phantom_authz_checks_total{reason="unavailabel"}`} {
		if len(unknown(t, known, bad)) == 0 {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// unknown returns what the query selects by names and labels that no program exports.
func unknown(t *testing.T, known map[string]map[string][]string, query string) (problems []string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return []string{err.Error()}
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		values, ok := known[selector.Name]
		if !ok {
			problems = append(problems, "unknown metric "+selector.Name)
			return nil
		}
		for _, m := range selector.LabelMatchers {
			if problem := mismatch(values, m); problem != "" {
				problems = append(problems, selector.Name+problem)
			}
		}
		return nil
	})
	return problems
}

// mismatch reports a label or a value that the metric does not have. A label with values that are not listed has none.
func mismatch(values map[string][]string, m *labels.Matcher) string {
	if m.Name == model.MetricNameLabel {
		return ""
	}
	list, ok := values[m.Name]
	if !ok {
		return " has no label " + m.Name
	}
	for _, value := range list {
		if m.Matches(value) {
			return ""
		}
	}
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf(" has no value %s of label %s", m.Value, m.Name)
}

// promtool returns the path of Prometheus' tool. If it is missing, it takes that of Debian's package.
func promtool(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("promtool"); err == nil {
		return path
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "phantom-authz", "prometheus")
	path := filepath.Join(dir, "usr", "bin", "promtool")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := extract(t, dir); err != nil {
		t.Fatalf("promtool is missing: install the package prometheus: %v", err)
	}
	return path
}

// extract downloads Debian's package and unpacks it into the folder. Installing it would start a server.
func extract(t *testing.T, dir string) error {
	t.Helper()
	temporary := t.TempDir()
	for _, command := range [][]string{{"apt-get", "update"}, {"apt-get", "download", "prometheus"}} {
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Dir = temporary
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	found, _ := filepath.Glob(filepath.Join(temporary, "prometheus_*.deb"))
	if len(found) != 1 {
		return errors.New("apt-get download left no package")
	}
	unfinished := dir + ".unfinished"
	if err := os.MkdirAll(unfinished, 0o755); err != nil {
		return err
	}
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "-x", found[0], unfinished).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb: %w\n%s", err, out)
	}
	return os.Rename(unfinished, dir)
}

func load(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
