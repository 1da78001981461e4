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

func TestTokenHasALeastLength(t *testing.T) {
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
			t.Errorf("%q is not presented: %v", content, err)
		}
	}
}

// A token whose file cannot be used counts no more, until it can.
func TestTokenIsRevokedWithItsFile(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"deleted":            os.Remove,
		"emptied":            func(path string) error { return os.Truncate(path, 0) },
		"short":              func(path string) error { return os.WriteFile(path, []byte("canary"), 0o600) },
		"two lines":          func(path string) error { return os.WriteFile(path, []byte("canary-1\ncanary-2"), 0o600) },
		"a folder":           func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"a dangling link":    func(path string) error { return errors.Join(os.Remove(path), os.Symlink("nowhere", path)) },
		"its folder is gone": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
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
				if err := spoil(path); err != nil {
					t.Fatal(err)
				}
				for range 5 {
					<-time.After(interval)
					if got := token.Get(); got != (credential.Secret{}) {
						t.Fatalf("%q still counts", got.Reveal())
					}
				}
				if got := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); got != 1 {
					t.Errorf("it is reported %d times", got)
				}
				if err := errors.Join(os.RemoveAll(filepath.Dir(path)), os.Mkdir(filepath.Dir(path), 0o700)); err != nil {
					t.Fatal(err)
				}
				put(t, path, "canary-new")
				<-time.After(interval)
				if got := token.Get().Reveal(); got != "canary-new" {
					t.Errorf("found %q after the file is back", got)
				}
			})
		})
	}
}

// The same file again, as from a backup with its times, counts again.
func TestTokenIsRestored(t *testing.T) {
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

// While a token is rotated as Kubernetes does it, by a swapped link and the removal of the
// old folder, and while it is renamed over, one of both tokens counts at any moment.
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
				token.value.due.Store(0) // looks each time
				if token.Get() == (credential.Secret{}) {
					t.Errorf("%s: no token counts", token.Path())
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

// One failure does not revoke a token: a link on the way to it may have been swapped between
// two steps.
func TestOneFailureDoesNotRevoke(t *testing.T) {
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

// The log is never called under the lock: a log that blocks must not keep files from being read.
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
		t.Errorf("%d lines are logged: want an error, a warning and a report", lines)
	}
}
