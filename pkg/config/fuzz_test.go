package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzLoad checks of any file that it does not panic, that each mistake is one line that names the
// file, and that a loaded configuration is printed as one that loads to the same value.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/authzd/*.yaml", "testdata/keyd/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Add([]byte(fullAuthzd))
	f.Add([]byte(fullKeyd))
	path := filepath.Join(f.TempDir(), "c.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		fuzzLoad(t, path, text, LoadAuthzd)
		fuzzLoad(t, path, text, LoadKeyd)
	})
}

func fuzzLoad[C any](t *testing.T, path string, text []byte, load func(string) (*C, error)) {
	t.Helper()
	write := func(text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	cfg, err := load(path)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, path) {
				t.Fatalf("message without the name of the file: %q", line)
			}
		}
		return
	}
	printed, err := Print(cfg)
	if err != nil {
		t.Fatal(err)
	}
	write(printed)
	again, err := load(path)
	if err != nil {
		t.Fatalf("%v in\n%s", err, printed)
	}
	if diff := cmp.Diff(cfg, again, cmp.AllowUnexported(Address{}), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s of\n%s", diff, printed)
	}
}
