package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// workdir is the folder of a running demo. A lock on the folder itself marks it as used.
type workdir struct {
	dir  string // absolute
	run  string // folder of the sockets and the database; not dir, because the programs would wait for its lock
	lock *os.File
}

// maxRun is the longest path of the folder run, in bytes. Longer exceeds the limit of a socket's path, about 104 bytes,
// since a socket is created under a longer, temporary name; shorter uses a folder outside .demo more often.
const maxRun = 60

// unfit are characters that have a meaning in the URL of a database.
const unfit = "?#%"

// claim creates the folder, or empties it, unless another demo uses it.
func claim(name string) (*workdir, error) {
	dir, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	w := &workdir{dir: dir, run: filepath.Join(dir, "run")}
	if w.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	if err := w.clear(); err != nil { // files of a demo that was killed
		_ = w.lock.Close()
		return nil, err
	}
	if !fit(w.run) {
		w.run = shortName(dir)
	}
	err = errors.Join(os.RemoveAll(w.run), os.Mkdir(w.run, 0o700))
	if err == nil {
		err = os.WriteFile(w.file("pid"), []byte(strconv.Itoa(os.Getpid())), 0o600)
	}
	if err != nil {
		w.Release()
		return nil, err
	}
	return w, nil
}

func (w *workdir) file(name string) string { return filepath.Join(w.dir, name) }

// Release removes all files of the demo.
func (w *workdir) Release() {
	_ = os.RemoveAll(w.run)
	_ = os.RemoveAll(w.dir)
	_ = w.lock.Close()
}

func (w *workdir) clear() error {
	entries, err := os.ReadDir(w.dir)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(w.file(entry.Name())))
	}
	return err
}

// lockFolder creates the folder if it does not exist, and locks it. The kernel releases the lock when the process exits.
func lockFolder(dir string) (*os.File, error) {
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed by a demo that is stopping
		}
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("the demo already runs in this clone%s: stop it first", holder(dir))
		}
		if sameFolder(f, dir) {
			return f, nil
		}
		_ = f.Close()
	}
}

// sameFolder reports whether the locked folder still has that name.
func sameFolder(f *os.File, dir string) bool {
	locked, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(dir)
	return err == nil && os.SameFile(locked, named)
}

func holder(dir string) string {
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return ""
	}
	return " (process " + strings.TrimSpace(string(pid)) + ")"
}

// fit reports whether a folder can contain the sockets and the database.
func fit(dir string) bool { return len(dir) <= maxRun && !strings.ContainsAny(dir, unfit) }

// shortName returns a folder in TMPDIR, or in /tmp if TMPDIR is unfit. It is the same at every start in a clone, so that
// killed demos leave one folder at most.
func shortName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	name := "phantom-demo-" + hex.EncodeToString(sum[:6])
	if path := filepath.Join(os.TempDir(), name); fit(path) && filepath.IsAbs(path) {
		return path
	}
	return filepath.Join("/tmp", name)
}
