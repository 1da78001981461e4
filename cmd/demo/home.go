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

// home is the folder of one running demo, held by a lock on the folder itself.
type home struct {
	dir  string // absolute
	run  string // for what stands in an address: a folder below it, or a plainer one; not dir itself, whose lock the parts would wait for
	lock *os.File
}

// maxSocket is what a folder's path may take of the about 104 bytes of a socket's,
// which begins under a longer, private name.
const maxSocket = 60

// unfit cannot stand in the path of a database: keyd would have to guess whether it is
// meant as in a URL.
const unfit = "?#%"

// claim makes the folder anew, if no other demo runs in it.
func claim(name string) (*home, error) {
	dir, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	h := &home{dir: dir, run: filepath.Join(dir, "run")}
	if h.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	if err := h.clear(); err != nil { // what a killed demo left
		_ = h.lock.Close()
		return nil, err
	}
	if !fit(h.run) {
		h.run = shortName(dir)
	}
	err = errors.Join(os.RemoveAll(h.run), os.Mkdir(h.run, 0o700))
	if err == nil {
		err = os.WriteFile(h.file("pid"), []byte(strconv.Itoa(os.Getpid())), 0o600)
	}
	if err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

func (h *home) file(name string) string { return filepath.Join(h.dir, name) }

// addressed is the path of a socket or a database.
func (h *home) addressed(name string) string { return filepath.Join(h.run, name) }

// Release removes all that the demo wrote.
func (h *home) Release() {
	_ = os.RemoveAll(h.run)
	_ = os.RemoveAll(h.dir)
	_ = h.lock.Close()
}

func (h *home) clear() error {
	entries, err := os.ReadDir(h.dir)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(h.file(entry.Name())))
	}
	return err
}

// lockFolder makes the folder if need be and locks it. The lock ends with the
// process, however it ends.
func lockFolder(dir string) (*os.File, error) {
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed by one that stops at this moment
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

// sameFolder tells whether the locked folder is still the one of that name.
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

// fit reports whether the folder may stand in the path of a socket and of a database.
func fit(dir string) bool { return len(dir) <= maxSocket && !strings.ContainsAny(dir, unfit) }

// shortName is the same at every start in the clone, so that a killed demo leaves no more
// than one. It is below /tmp if TMPDIR does not fit either.
func shortName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	name := "phantom-demo-" + hex.EncodeToString(sum[:6])
	if path := filepath.Join(os.TempDir(), name); fit(path) && filepath.IsAbs(path) {
		return path
	}
	return filepath.Join("/tmp", name)
}
