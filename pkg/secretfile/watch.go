package secretfile

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// interval is the time between two looks at files in use. Larger accepts replaced secrets
	// longer; smaller costs more calls of stat. A change counts after interval and settle at the
	// latest.
	interval = 800 * time.Millisecond

	// settle is the time since a write after which a file is complete. Smaller uses the half of a
	// file that is written slowly; larger accepts replaced secrets longer.
	settle = 200 * time.Millisecond
)

// watched is a value that is made from files, and again after one of them has changed. It is safe
// for concurrent use.
type watched[T any] struct {
	paths   []string
	private []string // those of the paths that only their owner should read
	make    func() (T, error)
	log     *zap.Logger
	revoke  bool // unusable files replace the value by the zero value

	value atomic.Pointer[T]
	due   atomic.Int64 // time of the next look, in nanoseconds since start

	mu       sync.Mutex    // held during a look, not while logging; no caller waits for it
	seen     []os.FileInfo // of the files that were read last
	deferred bool          // the last look postponed a change
	failed   string        // the last failure, "" after a success
}

// start is the origin of due. Times since start are monotonic.
var start = time.Now()

// watch makes the value for the first time. It ignores empty paths.
func watch[T any](paths, private []string, log *zap.Logger, fresh func() (T, error)) (*watched[T], error) {
	empty := func(p string) bool { return p == "" }
	w := &watched[T]{paths: slices.DeleteFunc(paths, empty), private: slices.DeleteFunc(private, empty), make: fresh, log: log}
	seen, value, err := w.read()
	if err != nil {
		return nil, err
	}
	w.seen = seen
	w.value.Store(&value)
	w.due.Store(int64(time.Since(start) + interval))
	w.warnIfOpen()
	return w, nil
}

// get returns the current value. When a look is due, one caller looks; the others do not wait.
func (w *watched[T]) get() T {
	if now := int64(time.Since(start)); now >= w.due.Load() && w.mu.TryLock() {
		w.due.Store(now + int64(interval))
		report := w.look()
		w.mu.Unlock()
		report()
	}
	return *w.value.Load()
}

// look makes the value again if a file has changed, and returns a function that logs it.
func (w *watched[T]) look() (report func()) {
	seen, err := stat(w.paths)
	if err == nil {
		if w.failed == "" && slices.EqualFunc(seen, w.seen, unchanged) {
			w.deferred = false
			return func() {}
		}
		if w.deferred = !w.deferred && w.isBeingWritten(seen); w.deferred {
			w.due.Store(int64(time.Since(start) + settle))
			return func() {}
		}
	}
	seen, value, err := w.read()
	if err != nil { // a symbolic link on the path may have been swapped between two steps
		seen, value, err = w.read()
	}
	if err != nil {
		return w.fail(seen, err)
	}
	w.value.Store(&value)
	w.seen, w.failed = seen, ""
	return func() {
		w.warnIfOpen()
		w.log.Info("files reloaded", zap.Strings("files", w.paths))
	}
}

// isBeingWritten reports whether a file was written in place just now and may be incomplete. A
// rename over a file needs no such delay.
func (w *watched[T]) isBeingWritten(seen []os.FileInfo) bool {
	for i, info := range seen {
		age := time.Since(info.ModTime())
		if os.SameFile(info, w.seen[i]) && !unchanged(info, w.seen[i]) && age >= 0 && age < settle {
			return true
		}
	}
	return false
}

// fail handles files that cannot be used. Each look tries them again, because only a part of the
// files may have been replaced. The log reports each failure once.
func (w *watched[T]) fail(seen []os.FileInfo, err error) (report func()) {
	if seen != nil {
		w.seen = seen
	}
	message := "changed file is unusable: keeping the previous content"
	if w.revoke {
		message = "token file is unusable: rejecting its token"
		w.value.Store(new(T))
	}
	if text := err.Error(); text != w.failed {
		w.failed = text
		return func() { w.log.Error(message, zap.Error(err)) }
	}
	return func() {}
}

// read makes a value. It stats the files first, so that the next look finds a change during the
// read.
func (w *watched[T]) read() (seen []os.FileInfo, value T, err error) {
	if seen, err = stat(w.paths); err == nil {
		value, err = w.make()
	}
	return seen, value, err
}

func stat(paths []string) ([]os.FileInfo, error) {
	var all []os.FileInfo
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() { // a pipe cannot be read twice, and a device may not end
			return nil, invalid(path, "must be a regular file")
		}
		all = append(all, info)
	}
	return all, nil
}

func unchanged(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}

func (w *watched[T]) warnIfOpen() {
	for _, path := range w.private {
		warnIfOpen(path, w.log)
	}
}

// warnIfOpen warns about a file that everyone on the machine may read.
func warnIfOpen(path string, log *zap.Logger) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
		log.Warn("secret file can be read by everyone on this machine",
			zap.String("file", path), zap.Stringer("mode", info.Mode().Perm()))
	}
}
