package result

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

var plotted = Table{
	Name: "t", Columns: []string{"", "a, µs", "b, µs"},
	Rows: []Row{
		{"both <1>", []Cell{Median([]float64{10, 30, 20}), Value(5)}},
		{"the first", []Cell{Value(40), nil}},
		{"neither", []Cell{nil, nil}},
	},
}

func TestPlotIsWellFormed(t *testing.T) {
	for _, columns := range [][]string{{"a, µs"}, {"a, µs", "b, µs"}} {
		picture, err := Plot{File: "f.svg", Title: "A & B", Table: "t", Columns: columns}.SVG(plotted)
		if err != nil {
			t.Fatal(err)
		}
		for dec := xml.NewDecoder(bytes.NewReader(picture)); ; {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, picture)
			}
		}
		for text, want := range map[string]int{"both &lt;1&gt;": 1, "the first": 1, "neither": 0, "A &amp; B": 1, ">0<": 1, "10 to 30": 2 - len(columns), ">25<": len(columns) - 1} {
			if got := bytes.Count(picture, []byte(text)); got != want {
				t.Errorf("columns %q: %d times %q, want %d in\n%s", columns, got, text, want, picture)
			}
		}
	}
}

func TestPlotOfMissingDataFails(t *testing.T) {
	for want, p := range map[string]Plot{
		"no column":  {Columns: []string{"c"}},
		"0 of the":   {Columns: []string{"b, µs"}, Rows: []string{"neither"}},
		"1 of the r": {Columns: []string{"a, µs"}, Rows: []string{"the first", "another"}},
	} {
		if _, err := p.SVG(plotted); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", p, err, want)
		}
	}
}

func TestTick(t *testing.T) {
	for greatest, want := range map[float64]float64{5: 1, 5.1: 2, 10: 2, 11: 5, 53000: 20000, 0.4: 0.1, 1: 0.2, 26: 10} {
		if got := tick(greatest); got < want*0.999 || got > want*1.001 {
			t.Errorf("axis to %v: a line at each %v, want %v", greatest, got, want)
		}
	}
}
