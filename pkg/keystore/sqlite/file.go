package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// lock takes the lock of the database at path: an advisory lock (flock) on PATH.lock, a file that is never deleted. The
// kernel releases the lock when the process ends, also by a kill. Programs that only read the database do not take it.
//
// Without it, a second keyd or keyd -new-epoch would correct the times on record by a step of the clock while the first
// continues to count by its own clock.
func lock(path string) (*os.File, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(target+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock file cannot be opened for writing: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: another keyd has it open and holds the lock on %s", keystore.ErrUnreachable, f.Name())
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// errDeleted: a restart would not find later writes.
var errDeleted = errors.New("the database file was deleted or replaced")

// files are the database and SQLite's log and index beside it, as they were opened. SQLite does not notice if one of them is
// deleted: it continues in the file that has no name any longer.
type files struct {
	log    *zap.Logger
	opened map[string]os.FileInfo // by path
	lost   atomic.Bool            // and logged
}

// openedFiles returns the files. Call it after SQLite has opened all of them.
func openedFiles(path string, log *zap.Logger) (*files, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	f := &files{log: log, opened: map[string]os.FileInfo{}}
	for _, name := range []string{path, target + "-wal", target + "-shm"} {
		if f.opened[name], err = os.Stat(name); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// check returns errDeleted if one of the paths is not the file that was opened. It logs this once.
func (f *files) check() error {
	for path, opened := range f.opened {
		now, err := os.Stat(path)
		if err == nil && os.SameFile(now, opened) {
			continue
		}
		if f.lost.CompareAndSwap(false, true) {
			f.log.Error("store: database file deleted or replaced: writes are refused until the original file is back",
				zap.String("file", path), zap.Error(err))
		}
		return fmt.Errorf("%w: %s", errDeleted, path)
	}
	if f.lost.CompareAndSwap(true, false) {
		f.log.Info("store: database file is back")
	}
	return nil
}
