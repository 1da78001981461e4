package daemon

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"time"
)

const (
	// watchInterval is the time between two looks at the configuration file. Larger delays a
	// reload; smaller costs file system calls.
	watchInterval = 500 * time.Millisecond
	// maxWatched is how much of the configuration file is read, in bytes. Smaller than the largest
	// file that a Load accepts misses changes; larger costs time if a wrong file is given.
	maxWatched = 2 << 20
)

// content is the SHA-256 of a configuration file, zero for a file that cannot be read or is not a
// regular file.
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

// watchFile calls report with the content of the file every watchInterval, until ctx ends. It skips
// a file that has changed since the last look, because it may be half-written, and one that cannot
// be read, because it may be about to be replaced.
//
// It reads the file by name, which detects a write in place, a rename over the file and the swap of
// the folder behind a ConfigMap's symbolic link, also on network file systems, where inotify reports
// nothing.
func watchFile(ctx context.Context, path string, report func(content)) {
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
			report(now)
		}
		before = now
	}
}
