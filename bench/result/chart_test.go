package result

import (
	"encoding/xml"
	"strings"
	"testing"
)

func TestChartIsWellFormed(t *testing.T) {
	for _, log := range []bool{false, true} {
		c := Chart{
			File: "c.svg", Title: "p50 & p99, ms", Log: log, Periods: []Period{{1, 2}},
			Lines: []Line{{"p50", Cell{1, 2, 3}, Cell{0.2, 0.3, 2000}}, {"p99", Cell{1, 3}, Cell{5, 7}}},
		}
		picture, err := c.SVG()
		if err != nil {
			t.Fatal(err)
		}
		var svg struct {
			Lines []struct {
				Points string `xml:"points,attr"`
			} `xml:"polyline"`
		}
		if err := xml.Unmarshal(picture, &svg); err != nil {
			t.Fatal(err)
		}
		if len(svg.Lines) != 2 || len(strings.Fields(svg.Lines[0].Points)) != 3 {
			t.Errorf("log %t: lines %+v, want 2 of which the first has 3 points", log, svg.Lines)
		}
	}
}

func TestChartRejectsValuesThatItCannotShow(t *testing.T) {
	for name, c := range map[string]Chart{
		"no line":             {},
		"a minute is missing": {Lines: []Line{{"a", Cell{1}, Cell{1, 2}}}},
		"a negative value":    {Lines: []Line{{"a", Cell{1}, Cell{-1}}}},
		"0 on a logarithmic axis": {
			Log: true, Lines: []Line{{"a", Cell{1}, Cell{0}}},
		},
	} {
		if _, err := c.SVG(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestScale(t *testing.T) {
	for _, c := range []struct {
		least, greatest float64
		log             bool
		value, want     float64
	}{
		{0, 10, false, 5, 0.5},
		{0, 0, false, 0, 0},
		{0.2, 900, true, 10, 0.5}, // 0.1 to 1,000
		{5, 5, true, 1, 0},
	} {
		if got := newScale(c.least, c.greatest, c.log).at(c.value); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("%v on the axis from %v to %v: %v, want %v", c.value, c.least, c.greatest, got, c.want)
		}
	}
}
