package secretfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// put replaces a file by rename.
func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func observed() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return zap.New(core), logs
}

func TestOpen(t *testing.T) {
	for name, c := range map[string]struct{ content, want, err string }{
		"plain":        {"abc", "abc", ""},
		"newline":      {"abc\n", "abc", ""},
		"crlf":         {"abc\r\n", "abc", ""},
		"spaces stay":  {" abc \n", " abc ", ""},
		"mark":         {"\ufeffabc", "abc", ""},
		"mark, crlf":   {"\ufeffabc\r\n", "abc", ""},
		"mark only":    {"\ufeff", "", "must not be empty"},
		"empty":        {"", "", "must not be empty"},
		"newline only": {"\n", "", "must not be empty"},
		"two newlines": {"hunter2\n\n", "", "must hold one line"},
		"two lines":    {"hunter2\nb", "", "must hold one line"},
		"NUL":          {"hunter2\x00", "", "without control characters"},
		"too large":    {strings.Repeat("hunter2", 1000), "", "at most 4096 bytes"},
	} {
		path := filepath.Join(t.TempDir(), "secret")
		put(t, path, c.content)
		f, err := Open(path, zap.NewNop())
		if err != nil {
			if c.err == "" || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: the error holds the secret: %v", name, err)
			}
			continue
		}
		if got := f.Get().Reveal(); got != c.want || c.err != "" {
			t.Errorf("%s: found %q, want %q or an error with %q", name, got, c.want, c.err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "nowhere"), zap.NewNop()); err == nil {
		t.Error("a missing file was opened")
	}
	if _, err := Open(t.TempDir(), zap.NewNop()); err == nil || !strings.Contains(err.Error(), "must be a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

// CheckSecret and CheckToken must agree with Open and OpenToken.
func TestChecksAgreeWithOpen(t *testing.T) {
	for name, content := range map[string]string{
		"token": "canary-1", "newline": "canary-1\n", "crlf": "canary-1\r\n", "two newlines": "canary-1\n\n", "empty": "", "newline only": "\n",
		"two lines": "canary-a\nb", "tab": "canary-a\tb", "space": " canary-a ", "not ASCII": "canary-ä", "NUL": "canary-a\x00", "DEL": "canary-a\x7f",
		"largest": strings.Repeat("a", maxSecret), "too large": strings.Repeat("a", maxSecret+1),
		"mark": "\ufeffcanary-1\r\n", "mark only": "\ufeff", "mark and largest": "\ufeff" + strings.Repeat("a", maxSecret),
		"mark and too large": "\ufeff" + strings.Repeat("a", maxSecret+1), "UTF-16": "\xff\xfec\x00a\x00n\x00a\x00r\x00y\x00",
		"short": "1234567", "short with a mark": "\ufeff1234567\r\n", "8 characters": "äääääääß", "7 characters": "ääääääß",
	} {
		path := filepath.Join(t.TempDir(), "secret")
		put(t, path, content)
		for _, f := range []struct {
			check func(string) (credential.Secret, error)
			open  func(string, *zap.Logger) (*File, error)
		}{{CheckSecret, Open}, {CheckToken, OpenToken}} {
			checked, checkErr := f.check(path)
			opened, openErr := f.open(path, zap.NewNop())
			switch {
			case (checkErr == nil) != (openErr == nil):
				t.Errorf("%s: check %v, open %v", name, checkErr, openErr)
			case openErr == nil && checked.Digest() != opened.Get().Digest():
				t.Errorf("%s: checked %q, opened %q", name, checked.Reveal(), opened.Get().Reveal())
			}
		}
	}
	for _, check := range []func(string) error{
		CheckPEM, CheckCAs,
		func(path string) error { _, err := CheckSecret(path); return err },
		func(path string) error { _, err := CheckToken(path); return err },
		func(path string) error { return CheckKeyPair(path, path) },
	} {
		if err := check("/dev/zero"); err == nil || err.Error() != "/dev/zero is invalid: must be a regular file" {
			t.Errorf("a device: %v", err)
		}
		if err := check(filepath.Join(t.TempDir(), "nowhere")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing file: %v", err)
		}
	}
}

// pipe makes a named pipe with the content.
func pipe(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = os.WriteFile(path, []byte(content), 0o600) // waits for the reader
	}()
	t.Cleanup(func() { <-done })
	return path
}

func TestReadOnceReadsPipes(t *testing.T) {
	secret, err := ReadOnce(pipe(t, "a-long-enough-secret\n"))
	if err != nil || secret.Reveal() != "a-long-enough-secret" {
		t.Errorf("got %q, %v", secret.Reveal(), err)
	}
	path := pipe(t, "hunter2\ntwo lines")
	if _, err := ReadOnce(path); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("two lines: %v", err)
	}
	if _, err := ReadOnce(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("a missing file was read")
	}
}

func TestWarnsAboutFilesThatEveryoneCanRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	put(t, path, "abc")
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o640: 0, 0o644: 1, 0o604: 1} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		log, logs := observed()
		if _, err := Open(path, log); err != nil {
			t.Fatal(err)
		}
		if got := logs.FilterLevelExact(zapcore.WarnLevel).Len(); got != want {
			t.Errorf("mode %v: %d warnings, want %d", mode, got, want)
		}
	}
}

// The first use after interval finds a change.
func TestChangeIsFoundAfterInterval(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	synctest.Test(t, func(t *testing.T) {
		put(t, path, "old")
		log, logs := observed()
		f, err := Open(path, log)
		if err != nil {
			t.Fatal(err)
		}
		expect := func(want string) {
			t.Helper()
			if got := f.Get().Reveal(); got != want {
				t.Errorf("found %q, want %q", got, want)
			}
		}
		put(t, path, "new")
		<-time.After(interval - time.Nanosecond)
		expect("old") // no look yet
		<-time.After(time.Nanosecond)
		expect("new")

		put(t, path, "") // a failed rotation
		for range 3 {
			<-time.After(interval)
			expect("new")
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		<-time.After(interval)
		expect("new")
		if errors := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); errors != 2 {
			t.Errorf("two failures were logged %d times", errors)
		}
		put(t, path, "newest\n")
		<-time.After(interval)
		expect("newest")
		for _, entry := range logs.All() {
			if strings.Contains(entry.Message, "newest") {
				t.Errorf("the log holds a secret: %v", entry)
			}
		}
	})
}

// Kubernetes swaps a Secret by renaming a symbolic link to its folder.
func TestSwapOfASymbolicLinkIsAChange(t *testing.T) {
	dir := t.TempDir()
	mount := func(name, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, name, "secret"), content)
		if err := os.Symlink(name, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		mount("..1", "one")
		path := filepath.Join(dir, "secret")
		if err := os.Symlink("..data/secret", path); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		mount("..2", "two")
		<-time.After(interval)
		if got := f.Get().Reveal(); got != "two" {
			t.Errorf("found %q after the swap", got)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	put(t, path, "aa")
	f, err := Open(path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	f.value.due.Store(0)
	put(t, path, "bb")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if got := f.Get().Reveal(); got != "aa" && got != "bb" {
					t.Errorf("found %q", got)
				}
			}
		})
	}
	all.Wait()
	if got := f.Get().Reveal(); got != "bb" {
		t.Errorf("found %q at the end", got)
	}
}

func BenchmarkGet(b *testing.B) {
	path := filepath.Join(b.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := Open(path, zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Get()
	}
}
