package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What stands in an address is short and has no character that means something there.
func TestFolderOfAddresses(t *testing.T) {
	top, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(top) }()
	for name, below := range map[string]bool{
		"plain, with spaces": true, "100%": false, "what?": false, "#1": false, strings.Repeat("long", 20): false,
	} {
		h, err := claim(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		where := h.addressed("keys.db")
		if (where == filepath.Join(top, name, "run", "keys.db")) != below || strings.ContainsAny(where, unfit) {
			t.Errorf("%q: %s", name, where)
		}
		h.Release()
		if _, err := os.Stat(h.run); err == nil {
			t.Errorf("%q: %s is left behind", name, h.run)
		}
	}
}

// TestFolderOfAddressesWithoutShortTMPDIR: TMPDIR is used only if its path may stand in an address.
func TestFolderOfAddressesWithoutShortTMPDIR(t *testing.T) {
	for dir, used := range map[string]bool{"/t": true, "/" + strings.Repeat("long", 20): false, "/100%": false, "relative": false} {
		t.Setenv("TMPDIR", dir)
		if got := shortName("/clone/.demo"); !fit(got) || strings.HasPrefix(got, dir+"/phantom-demo-") != used {
			t.Errorf("TMPDIR=%s: %s", dir, got)
		}
	}
}
