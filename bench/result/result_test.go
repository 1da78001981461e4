package result

import (
	"path/filepath"
	"reflect"
	"testing"
)

func TestCellString(t *testing.T) {
	for _, test := range []struct {
		cell Cell
		want string
	}{
		{nil, ""},
		{Value(0), "0"},
		{Value(0.04567), "0.0457"},
		{Value(0.4), "0.4"},
		{Value(12.345), "12.3"},
		{Value(999.6), "1,000"},
		{Value(53123), "53,100"},
		{Value(1234567), "1,230,000"},
		{Value(-123), "-123"},
		{Value(-1234), "-1,230"},
		{Median([]float64{3, 1, 2}), "2 (1 to 3)"},
		{Median([]float64{4, 1, 2, 3}), "3 (1 to 4)"},
		{Spread(10, []float64{7}), "10 (7 to 7)"},
	} {
		if got := test.cell.String(); got != test.want {
			t.Errorf("%v: %q, want %q", []float64(test.cell), got, test.want)
		}
	}
}

func TestGoalReached(t *testing.T) {
	for _, test := range []struct {
		goal Goal
		want bool
	}{
		{Goal{Measured: Value(0.40), AtMost: 0.40}, true},
		{Goal{Measured: Value(0.41), AtMost: 0.40}, false},
		{Goal{Measured: Value(2.5), AtLeast: 2.5}, true},
		{Goal{Measured: Value(2.4), AtLeast: 2.5}, false},
		{Goal{AtMost: 0.40}, false},
		{Goal{Measured: Value(1)}, false},
	} {
		if got := test.goal.Reached(); got != test.want {
			t.Errorf("%+v is reached: %t, want %t", test.goal, got, test.want)
		}
	}
}

func TestTableMarkdown(t *testing.T) {
	table := Table{
		Caption: "Medians of 3 rounds.", Columns: []string{"", "rate, 1/s", "ratio"},
		Rows: []Row{{"one", []Cell{Value(1), nil}}, {"two", []Cell{Median([]float64{1, 2, 3}), Value(0.5)}}},
	}
	want := "Medians of 3 rounds.\n\n|  | rate, 1/s | ratio |\n| --- | --- | --- |\n| one | 1 |  |\n| two | 2 (1 to 3) | 0.5 |\n"
	if got := table.Markdown(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	goals := []Goal{{Name: "CPU", Measured: Value(0.5), AtMost: 0.4}, {Name: "rate", Measured: Value(2000), AtLeast: 1000}}
	want = "| goal | bound | measured | reached |\n| --- | --- | --- | --- |\n| CPU | at most 0.4 | 0.5 | **no** |\n| rate | at least 1,000 | 2,000 | yes |\n"
	if got := GoalsMarkdown(goals); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestReadReturnsWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.json")
	f := File{
		Bench: "envoy", Seconds: 3,
		Tables: []Table{{Name: "t", Columns: []string{"", "a"}, Rows: []Row{{"r", []Cell{nil, Median([]float64{1, 2})}}}}},
		Goals:  []Goal{{Name: "g", Measured: Value(1), AtMost: 2}},
	}
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil || !reflect.DeepEqual(got, f) {
		t.Errorf("%+v, want %+v: %v", got, f, err)
	}
}
