package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunFolderIsShortAndPlain(t *testing.T) {
	top, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(top) }()
	for name, below := range map[string]bool{
		"plain, with spaces": true, "100%": false, "what?": false, "#1": false, strings.Repeat("long", 20): false,
	} {
		w, err := claim(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		where := filepath.Join(w.run, "keys.db")
		if (where == filepath.Join(top, name, "run", "keys.db")) != below || strings.ContainsAny(where, unfit) {
			t.Errorf("%q: %s", name, where)
		}
		w.Release()
		if _, err := os.Stat(w.run); err == nil {
			t.Errorf("%q: %s is left", name, w.run)
		}
	}
}

func TestRunFolderIgnoresUnfitTMPDIR(t *testing.T) {
	for dir, used := range map[string]bool{"/t": true, "/" + strings.Repeat("long", 20): false, "/100%": false, "relative": false} {
		t.Setenv("TMPDIR", dir)
		if got := shortName("/clone/.demo"); !fit(got) || strings.HasPrefix(got, dir+"/phantom-demo-") != used {
			t.Errorf("TMPDIR=%s: %s", dir, got)
		}
	}
}
