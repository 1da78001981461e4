package secretfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func TestShortTokenIsInvalid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for content, ok := range map[string]bool{
		"a": false, "canary7": false, "canary7\r\n": false, "\ufeffcanary7": false, "canary-8": true, "ääääääää": true, "äääääää": false,
	} {
		put(t, path, content)
		_, err := OpenToken(path, zap.NewNop())
		if (err == nil) != ok || err != nil && (!strings.Contains(err.Error(), path+" is invalid: must hold a token of at least 8 characters") || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%q: %v", content, err)
		}
		if _, err := Open(path, zap.NewNop()); err != nil {
			t.Errorf("Open of %q: %v", content, err)
		}
	}
}

// A token is rejected while its file cannot be used.
func TestTokenIsRejectedWhileItsFileIsUnusable(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"deleted":        os.Remove,
		"emptied":        func(path string) error { return os.Truncate(path, 0) },
		"short":          func(path string) error { return os.WriteFile(path, []byte("canary"), 0o600) },
		"two lines":      func(path string) error { return os.WriteFile(path, []byte("canary-1\ncanary-2"), 0o600) },
		"directory":      func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"dangling link":  func(path string) error { return errors.Join(os.Remove(path), os.Symlink("nowhere", path)) },
		"folder removed": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "folder", "token")
			synctest.Test(t, func(t *testing.T) {
				if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				put(t, path, "canary-old")
				log, logs := observed()
				token, err := OpenToken(path, log)
				if err != nil {
					t.Fatal(err)
				}
				if err := damage(path); err != nil {
					t.Fatal(err)
				}
				for range 5 {
					<-time.After(interval)
					if got := token.Get(); got != (credential.Secret{}) {
						t.Fatalf("%q is still accepted", got.Reveal())
					}
				}
				if got := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); got != 1 {
					t.Errorf("logged %d times", got)
				}
				if err := errors.Join(os.RemoveAll(filepath.Dir(path)), os.Mkdir(filepath.Dir(path), 0o700)); err != nil {
					t.Fatal(err)
				}
				put(t, path, "canary-new")
				<-time.After(interval)
				if got := token.Get().Reveal(); got != "canary-new" {
					t.Errorf("found %q after the file is restored", got)
				}
			})
		})
	}
}

// A file that is written in place may be incomplete for a moment, in which the last good token must
// stay accepted. The delay is bounded, and a rename has none.
func TestTokenWrittenInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(content string) { // in place, with the times of the bubble
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chtimes(path, time.Now(), time.Now())); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		write("canary-old")
		log, logs := observed()
		token, err := OpenToken(path, log)
		if err != nil {
			t.Fatal(err)
		}
		expect := func(after time.Duration, want string) {
			t.Helper()
			<-time.After(after)
			if got := token.Get().Reveal(); got != want {
				t.Errorf("found %q, want %q", got, want)
			}
		}
		<-time.After(interval)
		write("")
		expect(0, "canary-old")
		write("canary-new-")
		expect(settle-1, "canary-old")
		write("canary-new-and-longer")
		expect(1, "canary-new-and-longer")
		if lines := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); lines != 0 {
			t.Errorf("%d errors are logged", lines)
		}

		<-time.After(interval)
		write("")
		expect(0, "canary-new-and-longer")
		write("") // still being written: the second look decides
		expect(settle, "")

		<-time.After(interval)
		write("canary-back")
		expect(0, "")
		expect(settle, "canary-back")

		write("canary-settled")
		expect(interval, "canary-settled")
		<-time.After(interval)
		put(t, path, "canary-renamed")
		if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
		expect(0, "canary-renamed")
	})
}

// The same file with the same times is accepted again.
func TestTokenIsAcceptedAfterItsFileIsRestored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		put(t, path, "canary-token")
		token, err := OpenToken(path, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ from, to, want string }{{path, path + ".away", ""}, {path + ".away", path, "canary-token"}} {
			if err := os.Rename(c.from, c.to); err != nil {
				t.Fatal(err)
			}
			<-time.After(interval)
			if got := token.Get(); c.want == "" && got != (credential.Secret{}) || c.want != "" && got.Reveal() != c.want {
				t.Errorf("found %q, want %q", got.Reveal(), c.want)
			}
		}
	})
}

// During a rotation by a swapped link and removal of the old directory, as Kubernetes does it, and
// by rename, one of both tokens is accepted at any moment.
func TestTokenRotationHasNoGap(t *testing.T) {
	dir := t.TempDir()
	at := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	mount := func(name string) {
		err := os.Mkdir(at(name), 0o700)
		if err == nil {
			put(t, at(name, "token"), "canary-"+name)
			err = errors.Join(os.Symlink(name, at("..data_tmp")), os.Rename(at("..data_tmp"), at("..data")))
		}
		if err != nil {
			t.Error(err)
		}
	}
	mount("one")
	put(t, at("renamed"), "canary-one")
	if err := os.Symlink("..data/token", at("token")); err != nil {
		t.Fatal(err)
	}
	var tokens []*File
	for _, name := range []string{"token", "renamed"} {
		token, err := OpenToken(at(name), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	done := make(chan struct{})
	var all sync.WaitGroup
	for _, token := range tokens {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				token.value.due.Store(0) // look each time
				if token.Get() == (credential.Secret{}) {
					t.Errorf("%s: both tokens are rejected", token.value.paths[0])
					return
				}
			}
		})
	}
	for range 20 {
		for _, names := range [][2]string{{"one", "two"}, {"two", "one"}} {
			mount(names[1])
			put(t, at("renamed"), "canary-"+names[1])
			if err := os.RemoveAll(at(names[0])); err != nil {
				t.Error(err)
			}
		}
	}
	close(done)
	all.Wait()
}

// A link on the path may be swapped between two steps of a look.
func TestOneFailureDoesNotRejectAToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	put(t, path, "")
	failures := 0
	value, err := watch([]string{path}, nil, zap.NewNop(), func() (int, error) {
		if failures > 0 {
			failures--
			return 0, os.ErrNotExist
		}
		return 1, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	value.revoke = true
	for many, want := range []int{1, 1, 0} {
		put(t, path, strings.Repeat("x", many+1))
		failures = many
		due(value)
		if got := value.get(); got != want {
			t.Errorf("after %d failures found %d, want %d", many, got, want)
		}
	}
}

// A log that blocks must not keep files from being read.
func TestNoLogUnderLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	put(t, path, "canary-old")
	var f *File
	lines := 0
	core, _ := observed()
	log := zap.New(zapcore.RegisterHooks(core.Core(), func(entry zapcore.Entry) error {
		if lines++; f == nil {
			return nil
		}
		if !f.value.mu.TryLock() {
			t.Errorf("%q is logged under the lock", entry.Message)
			return nil
		}
		f.value.mu.Unlock()
		return nil
	}))
	f, err := OpenToken(path, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "canary-new"} {
		put(t, path, content)
		if err := os.Chmod(path, 0o604); err != nil {
			t.Fatal(err)
		}
		due(f.value)
		f.Get()
	}
	if lines != 3 {
		t.Errorf("%d lines: want an error, a warning and a reload", lines)
	}
}
