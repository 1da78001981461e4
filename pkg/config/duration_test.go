package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDurations: a file may write every duration that time.ParseDuration accepts and that is not
// negative, and a printed duration loads to the same value.
func TestDurations(t *testing.T) {
	for text, want := range map[string]struct {
		value   time.Duration
		printed string
	}{
		"0":       {0, "0s"},
		"-0":      {0, "0s"},
		"+0":      {0, "0s"},
		"0s":      {0, "0s"},
		"-0s":     {0, "0s"},
		"300ms":   {300 * time.Millisecond, "300ms"},
		"2.5s":    {2500 * time.Millisecond, "2.5s"},
		".5s":     {500 * time.Millisecond, "500ms"},
		"+10s":    {10 * time.Second, "10s"},
		"60s":     {time.Minute, "1m"},
		"1m0s":    {time.Minute, "1m"},
		"1m30s":   {90 * time.Second, "1m30s"},
		"1h0m0s":  {time.Hour, "1h"},
		"1.5h":    {90 * time.Minute, "1h30m"},
		"400us":   {400 * time.Microsecond, "400µs"},
		"400µs":   {400 * time.Microsecond, "400µs"},
		"1s1ns":   {time.Second + 1, "1.000000001s"},
		"9m59.9s": {599900 * time.Millisecond, "9m59.9s"},
	} {
		cfg, err := loadMaxStale(t, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		printed, err := cfg.Cache.MaxStale.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		again, err := time.ParseDuration(string(printed))
		if cfg.Cache.MaxStale.Duration != want.value || string(printed) != want.printed || err != nil || again != want.value {
			t.Errorf("%s: loaded as %v and printed as %s", text, cfg.Cache.MaxStale, printed)
		}
	}
	for _, text := range []string{"''", "5", "-1s", "-0.001ms", "1h30", "5 s", "1d", "1e3s", "s", "0x1s", "9999999999h", "1.5", "0.0", ".inf", ".nan"} {
		if cfg, err := loadMaxStale(t, text); err == nil {
			t.Errorf("%s: loaded as %v", text, cfg.Cache.MaxStale)
		}
	}
}

func loadMaxStale(t *testing.T, text string) (*Authzd, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	file := "key_api: {url: 'http://a'}\ncache: {max_stale: " + text + "}\n"
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadAuthzd(path)
}
