package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// Prometheus scrapes every two seconds, because the run is short. Grafana makes $__rate_interval at least four scrapes long.
const (
	scrape       = 2 * time.Second
	rateInterval = 5 * scrape
)

const configuration = `global: {scrape_interval: %s, scrape_timeout: 1s}
scrape_configs:
- {job_name: authzd, static_configs: [{targets: ['%s']}]}
- {job_name: keyd, static_configs: [{targets: ['%s']}]}
- {job_name: envoy, metrics_path: /stats/prometheus, static_configs: [{targets: ['%s']}]}
`

func (s *stack) startPrometheus(ctx context.Context) error {
	program, err := findPrometheus()
	if err != nil {
		return err
	}
	a, err := testbed.FreeAddresses(1)
	if err != nil {
		return err
	}
	admin := func(program string) string { return strings.TrimPrefix(s.programs[program].Admin(), "http://") }
	file := s.File("prometheus.yaml")
	text := fmt.Sprintf(configuration, scrape, admin("authzd"), admin("keyd"), s.envoyMonitor)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	_, err = s.Start("prometheus", command(ctx, program, "--config.file="+file, "--web.listen-address="+a[0],
		"--storage.tsdb.path="+s.File("tsdb"), "--log.level=warn"))
	if err != nil {
		return err
	}
	s.prometheus = "http://" + a[0]
	return s.Await(ctx, "prometheus", func() error { return testbed.Probe(ctx, s.prometheus+"/-/ready") })
}

// findPrometheus returns the program of the search path, or that of Debian's package, which the tests of monitoring unpack.
func findPrometheus() (string, error) {
	if path, err := exec.LookPath("prometheus"); err == nil {
		return path, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "phantom-authz", "prometheus", "usr", "bin", "prometheus")
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("prometheus is missing: install it, or run go test in monitoring, which unpacks Debian's package")
	}
	return path, nil
}

// panel is one of the dashboard.
type panel struct {
	Title       string
	Targets     []target
	FieldConfig struct {
		Defaults struct {
			Unit   string
			Custom struct{ ScaleDistribution struct{ Type string } }
		}
	}
}

type target struct{ Expr, LegendFormat string }

// readPanels returns the panels of a dashboard by their titles.
func readPanels(file string) (map[string]panel, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var dashboard struct{ Panels []panel }
	if err := json.Unmarshal(text, &dashboard); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	all := map[string]panel{}
	for _, p := range dashboard.Panels {
		all[p.Title] = p
	}
	return all, nil
}

// replaceVariables returns the query that Grafana sends if all values are selected.
func replaceVariables(query string) string {
	return strings.NewReplacer("$__rate_interval", rateInterval.String(), "$job", ".*", "$instance", ".*", "$keyd", ".*", "$envoy", ".*").Replace(query)
}

// series is one of the answer of Prometheus: pairs of a time in seconds and a value as text.
type series struct {
	Metric map[string]string
	Values [][2]any
}

// lines returns the values of a query since the start.
func (s *stack) lines(ctx context.Context, t target, start time.Time) ([]result.Line, error) {
	values := url.Values{
		"query": {replaceVariables(t.Expr)}, "step": {scrape.String()},
		"start": {start.Format(time.RFC3339)}, "end": {start.Add(length).Format(time.RFC3339)},
	}
	text, err := testbed.Get(ctx, s.prometheus+"/api/v1/query_range?"+values.Encode())
	if err != nil {
		return nil, err
	}
	var answer struct{ Data struct{ Result []series } }
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	var all []result.Line
	for _, one := range answer.Data.Result {
		l, err := line(one, t.LegendFormat, start)
		if err != nil {
			return nil, err
		}
		if len(l.Values) > 0 {
			all = append(all, l)
		}
	}
	return all, nil
}

// line returns the values that are numbers, named by Grafana's legend.
func line(s series, legend string, start time.Time) (result.Line, error) {
	l := result.Line{Name: legend}
	for label, value := range s.Metric {
		l.Name = strings.ReplaceAll(l.Name, "{{"+label+"}}", value)
	}
	for _, pair := range s.Values {
		at, ok := pair[0].(float64)
		text, isText := pair[1].(string)
		if !ok || !isText {
			return l, fmt.Errorf("prometheus answered with the pair %v", pair)
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return l, err
		}
		if math.IsNaN(value) || math.IsInf(value, 0) {
			continue
		}
		l.Minutes = append(l.Minutes, max(at-float64(start.Unix()), 0)/60)
		l.Values = append(l.Values, value)
	}
	return l, nil
}
