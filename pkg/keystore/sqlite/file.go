package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"go.uber.org/zap"
)

// errDeleted: what is written now would go into a file that nobody finds again.
var errDeleted = errors.New("the database file was deleted, or another was put in its place")

// files are the database and the log and index that SQLite keeps beside it, as they were when they
// were opened. SQLite does not notice if one of them is deleted: it goes on in the file that
// has no name any more, and a restart does not find what was written.
type files struct {
	log    *zap.Logger
	opened map[string]os.FileInfo // by path
	lost   atomic.Bool            // and told so
}

// openedFiles is to be called when all of them are open.
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

// check returns errDeleted if one of the paths does not lead to the file that was opened. It is logged
// once.
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
