package result

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var results = Results{
	{Bench: "one", Machine: Machine{Cores: 2}, Tables: []Table{{Name: "t", Columns: []string{"", "a"}, Rows: []Row{{"r", []Cell{Value(1)}}}}}},
	{Bench: "two", Machine: Machine{Cores: 2}, Goals: []Goal{{Name: "g", Measured: Value(1), AtMost: 2}}},
}

const places = "<!-- bench machine -->\n<!-- /bench machine -->\n<!-- bench goals -->\n<!-- /bench goals -->\n"

func TestFillReplacesTables(t *testing.T) {
	document := "# A\n<!-- bench t -->\nold\n<!-- /bench t -->\nB\n" + places
	want := "# A\n<!-- bench t -->\n|  | a |\n| --- | --- |\n| r | 1 |\n<!-- /bench t -->\nB\n"
	for range 2 { // filling again changes nothing
		filled, err := results.Fill(document)
		if err != nil || !strings.HasPrefix(filled, want) || !strings.Contains(filled, "| g | at most 2 | 1 | yes |") {
			t.Fatalf("%q, want %q: %v", filled, want, err)
		}
		document = filled
	}
}

func TestFillRequiresOnePlaceForEachTable(t *testing.T) {
	const one = "<!-- bench t -->\n<!-- /bench t -->\n"
	for want, document := range map[string]string{
		"table t has no place":   places,
		"reported the table t, ": one + one + places,
		"reported the table u":   one + places + "<!-- bench u -->\n<!-- /bench u -->\n",
		"t has no end":           "<!-- bench t -->\n" + places,
	} {
		if _, err := results.Fill(document); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

func TestJoinRejectsAnotherMachine(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for i, f := range results {
		path := filepath.Join(dir, f.Bench)
		f.Machine.Date = []string{"2026-01-01", "2026-01-02"}[i]
		if err := f.Write(path); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	joined, err := Join(paths)
	if err != nil || len(joined) != 2 {
		t.Fatalf("%+v: %v", joined, err)
	}
	stored := filepath.Join(dir, "results.json")
	if err := joined.Save(stored); err != nil {
		t.Fatal(err)
	}
	if loaded, err := Load(stored); err != nil || !reflect.DeepEqual(loaded, joined) {
		t.Errorf("%+v, want %+v: %v", loaded, joined, err)
	}
	other := results[0]
	other.Machine.Cores = 4
	if err := other.Write(paths[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(paths); err == nil {
		t.Error("results of another machine are accepted")
	}
}
