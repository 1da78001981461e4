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

const places = "<!-- bench machine -->\n<!-- /bench machine -->\n<!-- bench goals -->\n<!-- /bench goals -->\n<!-- bench two -->\n<!-- /bench two -->\n"

func TestFillReplacesTables(t *testing.T) {
	document := "# A\n<!-- bench one -->\nold\n<!-- /bench one -->\nB\n<!-- bench three -->\n<!-- /bench three -->\n" + places
	want := "# A\n<!-- bench one -->\n|  | a |\n| --- | --- |\n| r | 1 |\n<!-- /bench one -->\nB\n<!-- bench three -->\nNot measured.\n<!-- /bench three -->\n"
	for range 2 { // filling again changes nothing
		filled, err := results.Fill(document)
		if err != nil || !strings.HasPrefix(filled, want) || !strings.Contains(filled, "| g | at most 2 | 1 | yes |") || !strings.Contains(filled, ", 2 cores, ") {
			t.Fatalf("%q, want %q: %v", filled, want, err)
		}
		document = filled
	}
}

func TestFillRequiresAPlaceForResults(t *testing.T) {
	for want, document := range map[string]string{
		"one has no place":        places,
		"the place of one has no": "<!-- bench one -->\n" + places,
	} {
		if _, err := results.Fill(document); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

func TestReplaceRejectsAnotherMachine(t *testing.T) {
	dir := t.TempDir()
	write := func(f File) string {
		t.Helper()
		path := filepath.Join(dir, f.Bench)
		if err := f.Write(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	newer := File{Bench: "two", Machine: Machine{Cores: 2, Date: "2026-01-02"}}
	replaced, err := results.Replace([]string{write(newer), write(File{Bench: "three", Machine: Machine{Cores: 2}})})
	if err != nil || len(replaced) != 3 || replaced[1].Machine.Date != newer.Machine.Date || len(replaced[1].Goals) != 0 || len(results[1].Goals) != 1 {
		t.Fatalf("%+v: %v", replaced, err)
	}
	stored := filepath.Join(dir, "results.json")
	if err := replaced.Save(stored); err != nil {
		t.Fatal(err)
	}
	if loaded, err := Load(stored); err != nil || !reflect.DeepEqual(loaded, replaced) {
		t.Errorf("%+v, want %+v: %v", loaded, replaced, err)
	}
	if none, err := Load(filepath.Join(dir, "missing")); err != nil || len(none) != 0 {
		t.Errorf("%+v: %v, want no results without a file", none, err)
	}
	if _, err := results.Replace([]string{write(File{Bench: "one", Machine: Machine{Cores: 4}})}); err == nil {
		t.Error("results of another machine are accepted")
	}
}
