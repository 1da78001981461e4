package main

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestVisible(t *testing.T) {
	for given, want := range map[string]string{
		"plain text, Ünïcödé 日本語 🙂":   "plain text, Ünïcödé 日本語 🙂",
		"a\x1b[2Jb\r\n\tc":            `a\x1b[2Jb\r\n\tc`,
		"\u202e\u2066\u200f\u061c":    `\u202e\u2066\u200f\u061c`,
		"\u0085\u2028\u2029":          `\u0085\u2028\u2029`,
		"zero\u200bwidth\ufeff\u00a0": `zero\u200bwidth\ufeff\u00a0`,
		`back\slash`:                  `back\\slash`,
		"\xff\xc0bad":                 `\xff\xc0bad`,
		"\ufffd":                      "\ufffd",
		`say "hi" \"`:                 `say "hi" \\"`,
	} {
		if got := visible(given); got != want {
			t.Errorf("visible(%q) = %s, want %s", given, got, want)
		}
	}
}

func FuzzVisible(f *testing.F) {
	for _, seed := range []string{"a", "\x1b[31m", "\u202e", "\xff", `\n`, "\n", `\x1b`, "日本語", "é", "\u200d"} {
		f.Add(seed, "b")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		shownA, shownB := visible(a), visible(b)
		for _, r := range shownA {
			if !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r) {
				t.Errorf("visible(%q) has %U", a, r)
			}
		}
		if !utf8.ValidString(shownA) {
			t.Errorf("visible(%q) is not UTF-8", a)
		}
		if a != b && shownA == shownB {
			t.Errorf("%q and %q look alike", a, b)
		}
		// Each row is one line, and the columns are aligned.
		text := table{{shownA, "|"}, {shownB, "|"}}.String()
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) != 2 || utf8.RuneCountInString(lines[0]) != utf8.RuneCountInString(lines[1]) {
			t.Errorf("the rows of %q and %q differ in width:\n%s", a, b, text)
		}
	})
}
