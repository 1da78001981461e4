package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)

func TestParseExpires(t *testing.T) {
	for given, want := range map[string]string{
		"720h":                      "2026-02-01T03:04:05.678Z",
		"30d":                       "2026-02-01T03:04:05.678Z",
		"1d12h30m":                  "2026-01-03T15:34:05.678Z",
		"500ms":                     "2026-01-02T03:04:06.178Z",
		"2030-01-31T12:00:00+02:00": "2030-01-31T10:00:00Z",
		"2001-01-01T00:00:00Z":      "2001-01-01T00:00:00Z", // the API rejects times in the past
		"0":                         "",
		"0d":                        "",
		"-1h":                       "",
		"1d-1h":                     "",
		"-1d":                       "",
		"d":                         "",
		"1.5d":                      "",
		"1dd":                       "",
		"99999d":                    "",
		"65535d2000000h":            "", // overflows
		"2030-01-31":                "",
		"2030-01-31 12:00:00Z":      "",
		"tomorrow":                  "",
		"30":                        "",
		" 1h":                       "",
	} {
		at, err := parseExpires(given, now)
		got := ""
		if err == nil {
			got = at.Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("parseExpires(%q) = %q (%v), want %q", given, got, err, want)
		}
	}
}

func FuzzParseExpires(f *testing.F) {
	for _, seed := range []string{"720h", "30d", "1d12h", "0", "-1h", "65535d2000000h", "2030-01-31T12:00:00Z", "9999-12-31T23:59:59.999999999Z"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, given string) {
		at, err := parseExpires(given, now)
		if err != nil {
			return
		}
		if at.Location() != time.UTC || at.Year() > 9999 {
			t.Errorf("%q is %v: not RFC 3339 in UTC", given, at)
		}
		if d, err := parseDuration(given); err == nil && (d <= 0 || at.Before(now.Truncate(time.Millisecond))) {
			t.Errorf("%q, %v from now, is %v", given, d, at)
		}
	})
}

func TestNormalize(t *testing.T) {
	for args, want := range map[string]string{
		"key mint -label a":        "key mint --label=a",
		"-label a key mint":        "--label=a key mint",
		"key -label=a mint":        "key --label=a mint",
		"key mint --label a -id b": "key mint --label=a --id=b",
		"-scope a -scope=b x":      "--scope=a --scope=b x",
		"-label=-id":               "--label=-id",
		"-label -5%":               "--label=-5%",
		"-label - x":               "--label=- x",
		"-label a=b=c":             "--label=a=b=c",
		"-label=":                  "--label=",
		"x -label":                 "x --label",
		"-chain x":                 "--chain=true x",
		"--chain=false":            "--chain=false",
		"-o json":                  "--output=json",
		"--o=json -scope=a":        "--output=json --scope=a",
		"-id a --id=b":             "flag given more than once: --id",
		"-h -help --help":          "--help --help --help",
		"-version":                 "--version",
		"key mint -id a --version": "--version",
		"-acount x":                "--acount x",
		"- -- -x":                  "- -- -x",
		"-label -id b":             "flag needs an argument: --label",
		"-label -h":                "flag needs an argument: --label",
		"__complete -o key -la":    "__complete --output=key --la",
		"__complete -label -id b":  "__complete --label --id=b",
	} {
		got, err := normalize(strings.Fields(args), newFlags(&options{}))
		if err != nil {
			got = []string{err.Error()}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("normalize(%s) = %s, want %s", args, text, want)
		}
	}
}

func TestNormalizeRejectsPlaintext(t *testing.T) {
	for _, kind := range []credential.Kind{credential.Key, credential.Session} {
		plaintext := credential.Mint(kind).Reveal()
		for _, args := range [][]string{{"key", plaintext}, {"-id", plaintext}, {"--id=" + plaintext}, {"-label", "my " + plaintext + "."}} {
			if _, err := normalize(args, newFlags(&options{})); err == nil || strings.Contains(err.Error(), plaintext) {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
}

func TestCommandTableIsConsistent(t *testing.T) {
	used := map[string]bool{}
	cli := &cli{}
	root := cli.root()
	for i := range commands {
		c := &commands[i]
		found, rest, err := root.Find(strings.Fields(c.name))
		if err != nil || len(rest) > 0 || found.CommandPath() != "keyctl "+c.name {
			t.Errorf("%q is not found: %v", c.name, err)
		}
		if isGroup := c.requests == nil && c.list == nil; isGroup != found.HasSubCommands() || c.requests != nil && c.list != nil {
			t.Errorf("%q must have subcommands, requests or list", c.name)
		}
		for _, name := range strings.Fields(c.needs + " " + c.takes) {
			used[name] = true
		}
	}
	for _, f := range globalFlags {
		used[f.name] = true
	}
	explain, _, err := root.Find([]string{"explain"})
	if err != nil {
		t.Fatal(err)
	}
	explain.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { used[f.Name] = true })
	cli.flags.VisitAll(func(f *pflag.Flag) {
		if !used[f.Name] {
			t.Errorf("no command has the flag --%s", f.Name)
		}
	})
}
