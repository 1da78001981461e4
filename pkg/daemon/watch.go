package daemon

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"time"
)

const (
	// watchInterval is the time between two looks at the configuration file. Larger
	// delays a reload, smaller costs file system calls.
	watchInterval = 500 * time.Millisecond
	// maxWatched bounds what is read of the configuration file, in bytes. It is larger than
	// any file that a Load accepts.
	maxWatched = 2 << 20
)

// content is the SHA-256 of a configuration file, the zero content of a file that
// cannot be read or is not a regular file.
type content [sha256.Size]byte

// contentOf reads the file. A pipe is not read: it could not be read again by Load.
func contentOf(path string) content {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return content{}
	}
	f, err := os.Open(path)
	if err != nil {
		return content{}
	}
	defer func() { _ = f.Close() }() // read only
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, maxWatched)); err != nil {
		return content{}
	}
	return content(sum.Sum(nil))
}

// watchFile sends the content of the file every watchInterval, until ctx ends. It skips
// a file that has changed since the look before, because it may be half-written, and
// one that cannot be read, because it may just be replaced.
//
// It reads the file by its name: so it sees a write in place, a rename over the file and
// the swap of the folder behind a ConfigMap's symbolic link, on network file systems
// too, where inotify (fsnotify) reports nothing. A few kilobytes twice a second cost less
// than the cases that a cheaper look would miss.
func watchFile(ctx context.Context, path string, found chan<- content) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for before := (content{}); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := contentOf(path)
		if now == before && now != (content{}) {
			select {
			case found <- now:
			case <-ctx.Done():
				return
			}
		}
		before = now
	}
}
