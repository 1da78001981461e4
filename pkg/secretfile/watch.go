package secretfile

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// interval is how often the file system is asked about a file that is in use. A
// second is sooner than anybody who rotates a secret can expect, and a stat a second is nothing.
const interval = time.Second

// watched is a value that is made from files, and made anew when one of them has
// changed. It is safe for concurrent use.
type watched[T any] struct {
	paths   []string // what is stated; all of them non-empty
	private []string // those that nobody else should read
	make    func() (T, error)
	log     *zap.Logger
	revoke  bool // files that cannot be used leave the zero value in use, not the last good one

	value atomic.Pointer[T]
	due   atomic.Int64 // when to look at the files again, in nanoseconds since start

	mu     sync.Mutex    // held while looking; never waited for, and not held while logging
	seen   []os.FileInfo // of the files that value was made from
	failed string        // the last failure that was told, "" after a success
}

// start is what due counts from: durations between times of one process are
// monotonic, whatever happens to the wall clock.
var start = time.Now()

// watch makes the value for the first time. Paths that are empty are left out.
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

// get returns the value of the moment. One of the callers looks at the files when
// that is due; the others don't wait for him.
func (w *watched[T]) get() T {
	if now := int64(time.Since(start)); now >= w.due.Load() && w.mu.TryLock() {
		w.due.Store(now + int64(interval))
		report := w.look()
		w.mu.Unlock()
		report()
	}
	return *w.value.Load()
}

// look makes the value anew if a file has changed, and returns what logs it.
func (w *watched[T]) look() (report func()) {
	seen, err := stat(w.paths)
	if err == nil && slices.EqualFunc(seen, w.seen, unchanged) {
		w.failed = ""
		return func() {}
	}
	seen, value, err := w.read()
	if err != nil { // perhaps a symbolic link on the way was swapped just now
		seen, value, err = w.read()
	}
	if err != nil {
		return w.fail(err)
	}
	w.value.Store(&value)
	w.seen, w.failed = seen, ""
	return func() {
		w.warnIfOpen()
		w.log.Info("a changed file has been taken up", zap.Strings("files", w.paths))
	}
}

// fail handles files that cannot be used. They are tried again each second, because half
// of a certificate's files may have been replaced so far; the log says so once.
func (w *watched[T]) fail(err error) (report func()) {
	message := "a changed file cannot be used, what was read before stays in use"
	if w.revoke {
		message = "a token's file cannot be used, the token is accepted from nobody"
		var none T
		w.value.Store(&none)
		w.seen = nil
	}
	if text := err.Error(); text != w.failed {
		w.failed = text
		return func() { w.log.Error(message, zap.Error(err)) }
	}
	return func() {}
}

// read makes a value. The files are stated first: a change while they are read is found
// the next time.
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
		if !info.Mode().IsRegular() { // a pipe cannot be read again, a device might never end
			return nil, invalid(path, "must be a regular file")
		}
		all = append(all, info)
	}
	return all, nil
}

func unchanged(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}

// warnIfOpen tells of files with a secret that everybody on the machine may read.
func (w *watched[T]) warnIfOpen() {
	for _, path := range w.private {
		warnIfOpen(path, w.log)
	}
}

func warnIfOpen(path string, log *zap.Logger) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
		log.Warn("a file with a secret can be read by everybody on this machine",
			zap.String("file", path), zap.Stringer("mode", info.Mode().Perm()))
	}
}
