package faults_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
)

var cores = float64(runtime.NumCPU())

// writeAtTheEnd writes the results to the file of the flag -mixed.json when the test has ended and its processes too.
func writeAtTheEnd(t *testing.T, file *result.File) {
	t.Helper()
	if *mixedJSON == "" {
		return
	}
	meter := bench.StartMeter()
	t.Cleanup(func() {
		if meter.Describe(file); file.Bench == "" {
			return // the test has failed before
		}
		if err := file.Write(*mixedJSON); err != nil {
			t.Error(err)
		}
	})
}

// name returns the name of the load in reports.
func (m *mixed) name() string {
	if len(m.deciders) == 1 {
		return "module"
	}
	return "authzd"
}

// report logs the results of the load and returns them.
func (m *mixed) report(took time.Duration) result.File {
	m.t.Helper()
	front := m.name()
	requests := m.results.table()
	sum, wrong := m.results.sums()
	requests.Name = front + "-requests"
	requests.Caption = fmt.Sprintf("%.0f requests a second for %v; %d changes, %d updates of Envoy's configuration.",
		float64(sum)/took.Seconds(), took.Round(time.Second), m.changes.Load(), m.updates.Load())
	flat, slopes := m.sampler.flatness(front)
	file := result.File{
		Bench: "soak-" + front, Command: "make soak FRONT=" + front,
		Tables: []result.Table{requests, m.outageTable(), m.timesTable(), flat},
		Goals: []result.Goal{
			{Name: front + ": wrong answers", Measured: result.Value(float64(wrong))},
			{Name: front + ": change to effective beside outages, slowest, s", Measured: m.slowestEffect(undisturbed), AtMost: mixedPace.lease.Seconds()},
			{Name: front + ": change to effective in an outage, slowest, s", Measured: m.slowestEffect(inOutage), AtMost: 1.2 * (mixedPace.lease + mixedPace.maxStale).Seconds()},
		},
		Charts: m.sampler.charts(front),
	}
	if len(m.restarts) > 0 {
		file.Goals = append(file.Goals, result.Goal{
			Name: front + ": change to effective while a sidecar restarts, slowest, s", Measured: m.slowestEffect(inRestart), AtMost: mixedPace.lease.Seconds(),
		})
	}
	if *mixedTime >= longEnough {
		file.Goals = append(file.Goals, slopes...)
	}
	for _, t := range file.Tables {
		m.t.Logf("\n%s", t.Markdown())
	}
	m.t.Logf("%d requests, %d wrong; last sample %s\n%s", sum, wrong, m.sampler.taken[len(m.sampler.taken)-1], result.GoalsMarkdown(file.Goals))
	return file
}

func (m *mixed) outageTable() result.Table {
	t := result.Table{
		Name: m.name() + "-outages", Caption: "Outages of the key API. 503: requests with keys that were not cached, and after `max_stale` with all keys.",
		Columns: []string{"fault", "at minute", "duration, s", "then recovered in, s", "503"},
	}
	for _, p := range m.outages.all {
		if p.end.IsZero() {
			continue // it has failed the test
		}
		t.Rows = append(t.Rows, result.Row{Name: p.name, Cells: []result.Cell{
			result.Value(p.begin.Sub(m.began).Minutes()), result.Value(p.repair.Sub(p.begin).Seconds()), result.Value(p.end.Sub(p.repair).Seconds()), result.Value(float64(p.excused)),
		}})
	}
	return t
}

// slowestEffect returns the longest time until a change was effective, in seconds.
func (m *mixed) slowestEffect(p phase) result.Cell {
	slowest := 0.0
	for _, e := range m.effective {
		if e.phase == p {
			slowest = max(slowest, e.took.Seconds())
		}
	}
	return result.Value(slowest)
}

// timesTable has the latencies of requests with cached keys, the times of changes, and of restarts.
func (m *mixed) timesTable() result.Table {
	t := result.Table{Name: m.name() + "-times", Caption: "By what disturbed them meanwhile.", Columns: []string{"time", "number", "p50, ms", "p99, ms", "longest, ms"}}
	for p, d := range m.results.phases {
		if d.count() > 0 {
			t.Rows = append(t.Rows, result.Row{Name: "request with a cached key: " + phase(p).String(), Cells: []result.Cell{
				result.Value(float64(d.count())), result.Value(d.quantile(0.5)), result.Value(d.quantile(0.99)), result.Value(d.quantile(1)),
			}})
		}
	}
	for p := range phases {
		var took []time.Duration
		for _, e := range m.effective {
			if e.phase == p {
				took = append(took, e.took)
			}
		}
		t.Rows = appendTimes(t.Rows, "change, acknowledged to effective: "+p.String(), took)
	}
	var started, ended, whole []time.Duration
	for _, r := range m.restarts {
		started, ended, whole = append(started, r.started), append(ended, r.ended), append(whole, r.period.end.Sub(r.period.begin))
	}
	t.Rows = appendTimes(t.Rows, "restart: until the new process answers", started)
	t.Rows = appendTimes(t.Rows, "restart: from SIGTERM to the end of the old process", ended)
	t.Rows = appendTimes(t.Rows, "restart: until all keys are cached again", whole)
	return t
}

// appendTimes appends a row of times, if there are any.
func appendTimes(rows []result.Row, name string, took []time.Duration) []result.Row {
	if len(took) == 0 {
		return rows
	}
	slices.Sort(took)
	at := func(quantile float64) result.Cell {
		return result.Value(took[int(quantile*float64(len(took)-1))].Seconds() * 1000)
	}
	return append(rows, result.Row{Name: name, Cells: []result.Cell{result.Value(float64(len(took))), at(0.5), at(0.99), at(1)}})
}

// charts returns the samples as charts.
func (s *sampler) charts(front string) []result.Chart {
	var outages []result.Period
	for _, p := range s.m.outages.all {
		if !p.end.IsZero() {
			outages = append(outages, result.Period{From: p.begin.Sub(s.m.began).Minutes(), To: p.end.Sub(s.m.began).Minutes()})
		}
	}
	chart := func(name, title string, log bool) result.Chart {
		return result.Chart{File: "soak/" + front + "-" + name + ".svg", Title: title, Log: log, Periods: outages}
	}
	var charts []result.Chart
	for i, name := range []string{"memory", "descriptors", "goroutines"} {
		c := chart(name, front+": "+quantities[i].name, false)
		for _, role := range roles {
			if of := func(one sample) float64 { return quantities[i].of(one.used[role]) }; of(s.taken[0]) > 0 {
				c.Lines = append(c.Lines, s.line(role, of))
			}
		}
		charts = append(charts, c)
	}
	latency := chart("latency", front+": requests with cached keys, ms", true)
	latency.Lines = []result.Line{
		s.line("p50", func(one sample) float64 { return one.p50 }), s.line("p99", func(one sample) float64 { return one.p99 }),
		s.line("slowest probe of the machine", func(one sample) float64 { return one.delay.Seconds() * 1000 }),
	}
	others := chart("others", front+": share of the cores that other programs used, %", false)
	others.Lines = []result.Line{s.line("other programs", func(one sample) float64 { return 100 * one.others })}
	return append(charts, latency, others)
}

// line returns the samples that have a value.
func (s *sampler) line(name string, of func(sample) float64) result.Line {
	l := result.Line{Name: name}
	for _, one := range s.taken {
		if value := of(one); value > 0 {
			l.Minutes, l.Values = append(l.Minutes, one.at.Minutes()), append(l.Values, value)
		}
	}
	for i := range l.Values {
		l.Minutes[i], l.Values[i] = result.Value(l.Minutes[i])[0], result.Value(l.Values[i])[0]
	}
	return l
}
