package main

import (
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)

func TestParseExpires(t *testing.T) {
	for given, want := range map[string]string{
		"720h":                      "2026-02-01T03:04:05.678Z",
		"30d":                       "2026-02-01T03:04:05.678Z",
		"1d12h30m":                  "2026-01-03T15:34:05.678Z",
		"500ms":                     "2026-01-02T03:04:06.178Z",
		"2030-01-31T12:00:00+02:00": "2030-01-31T10:00:00Z",
		"2001-01-01T00:00:00Z":      "2001-01-01T00:00:00Z", // the API says what is too late
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

func TestParse(t *testing.T) {
	type want struct {
		words, label, id string
		scopes           string
		noValue          string
	}
	for args, w := range map[string]want{
		"key mint -label a":                  {words: "key mint", label: "a"},
		"-label a key mint":                  {words: "key mint", label: "a"},
		"key -label=a mint":                  {words: "key mint", label: "a"},
		"key mint --label a -id b":           {words: "key mint", label: "a", id: "b"},
		"-scope a -scope=b x":                {words: "x", scopes: "a b"},
		"-label -id b":                       {id: "b", noValue: "label"},
		"-label=-id":                         {label: "-id"},
		"-label -5%":                         {label: "-5%"},
		"-label - x":                         {label: "-", words: "x"},
		"x -label":                           {words: "x", noValue: "label"},
		"-label a=b=c":                       {label: "a=b=c"},
		"-label -h":                          {noValue: "label"},
		"- -- x":                             {words: "-", noValue: ""}, // "--" is a flag without a name: refused by check
		"-label=":                            {},
		"key mint -label=x=y -scope chat:co": {words: "key mint", label: "x=y", scopes: "chat:co"},
	} {
		line := parse(strings.Fields(args))
		got := want{
			words: strings.Join(line.words, " "), label: strings.Join(line.values["label"], " "),
			id: strings.Join(line.values["id"], " "), scopes: strings.Join(line.values["scope"], " "),
			noValue: strings.Join(line.noValue, " "),
		}
		if got != w {
			t.Errorf("parse(%s) = %+v, want %+v", args, got, w)
		}
	}
}

// Every flag that a command names exists, and every flag and command can be reached.
func TestCommandTable(t *testing.T) {
	used := map[string]bool{}
	for i := range commands {
		c := &commands[i]
		found, problem := findCommand(strings.Fields(c.name))
		if found != nil {
			found = commandLine{names: []string{c.form}}.form(found)
		}
		if found != c {
			t.Errorf("%q is not found: %s", c.title(), problem)
		}
		ways := 0
		for _, set := range []bool{c.requests != nil, c.list != nil, c.own != nil} {
			if set {
				ways++
			}
		}
		if ways != 1 {
			t.Errorf("%q has not exactly one of requests, list and own", c.title())
		}
		for _, name := range c.flags() {
			used[name] = true
			if flagNamed(name) == nil {
				t.Errorf("%q takes -%s, which there is not", c.name, name)
			}
		}
	}
	for _, f := range flags {
		if !used[f.name] {
			t.Errorf("no command takes -%s", f.name)
		}
	}
}
