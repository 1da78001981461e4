package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

func TestKeyLinesPassFileUnchanged(t *testing.T) {
	var file strings.Builder
	for n := range 3000 {
		fmt.Fprintf(&file, "%d %s\n", n, strings.Repeat("x", n%97))
	}
	file.WriteString("\n\nno end of line")
	for name, in := range map[string]io.Reader{
		"whole": strings.NewReader(file.String()), "by bytes": iotest.OneByteReader(strings.NewReader(file.String())),
		"by halves": iotest.HalfReader(strings.NewReader(file.String())), "with the end": iotest.DataErrReader(strings.NewReader(file.String())),
	} {
		if err := iotest.TestReader(newKeyLines(in, "f"), []byte(file.String())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyLinesDoNotWaitForNextLine(t *testing.T) {
	in, out := io.Pipe()
	defer func() { _ = out.Close() }()
	lines := newKeyLines(in, "f")
	go func() { _, _ = io.WriteString(out, "one\ntwo\nthr") }()
	got := make([]byte, 100)
	if n, err := lines.Read(got); err != nil || string(got[:n]) != "one\ntwo\n" {
		t.Errorf("%q, %v", got[:n], err)
	}
}

func TestKeyLinesStopAtInvalidLine(t *testing.T) {
	key, session := credential.Mint(credential.Key).Reveal(), credential.Mint(credential.Session).Reveal()
	wrong := key[:len(key)-1] + "!"
	for text, want := range map[string]string{
		"a\n" + `{"sha256":"` + key + `"}`:           "line 2 of f holds the plaintext",
		`phk_ {"label":"` + session + `"}` + "\nb\n": "line 1 of f holds the plaintext",
		"a\n\n" + key: "line 3 of f holds the plaintext",
		`{"sha256":"` + wrong + `","label":"phk_"}`: "",
		"a\n" + strings.Repeat("x", maxLine+1):      "line 2 of f is too long: must be at most 64 KiB",
	} {
		sent, err := io.ReadAll(newKeyLines(strings.NewReader(text), "f"))
		if want == "" {
			if err != nil || string(sent) != text {
				t.Errorf("%v", err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if strings.Contains(string(sent)+fmt.Sprint(err), key) || strings.Contains(string(sent)+fmt.Sprint(err), session) {
			t.Error("the plaintext is passed on")
		}
	}
	if _, err := io.ReadAll(newKeyLines(iotest.ErrReader(errors.New("broken disk")), "f")); err == nil || err.Error() != "read f: broken disk" {
		t.Error(err)
	}
}

// On a terminal one line is overwritten and removed. Elsewhere a line is printed at intervals.
func TestImportProgress(t *testing.T) {
	for terminal, want := range map[bool]string{
		true: "\r\x1b[Kkeyctl: 4000 lines, 2000 a second\r\x1b[Kkeyctl: 8000 lines, 2000 a second\r\x1b[Kkeyctl: 12000 lines, 2000 a second" +
			"\r\x1b[Kkeyctl: 16000 lines, 2000 a second\r\x1b[K",
		false: "keyctl: 8000 lines, 2000 a second\nkeyctl: 16000 lines, 2000 a second\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			began := time.Now()
			shown := importProgress{progress: progress{con: console{err: &out, terminal: terminal}}, began: began, last: began}
			for lines := range 5 {
				shown.update(operatorapi.ImportProgress{Lines: lines * 4000})
				shown.update(operatorapi.ImportProgress{Lines: lines*4000 + 1})
				<-time.After(2 * time.Second)
			}
			shown.clear()
			if out.String() != want {
				t.Errorf("terminal %v: got %q\nwant %q", terminal, out.String(), want)
			}
		})
	}
}
