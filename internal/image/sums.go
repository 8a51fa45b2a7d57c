package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"mvm/internal/sys"
)

// sums remembers the digests of files that did not change since they were read.
type sums struct {
	path string // where they outlive the process
	log  *slog.Logger

	mu    sync.Mutex
	known map[inode]sum
	busy  map[inode]chan struct{} // closed when the file has been read
}

type inode struct{ dev, ino uint64 }

// sum is what a file with the stamp was found to be.
type sum struct {
	Stamp  stamp  `json:"stamp"`
	SHA256 string `json:"sha256"`
}

// sumsFile is the form at rest.
type sumsFile struct {
	Version int    `json:"version"` // 1
	BootID  string `json:"boot_id"` // of the host: after a boot all files are read again
	Sums    []sum  `json:"sums"`
}

const (
	maxSums     = 1024    // files that are remembered
	maxSumsFile = 1 << 20 // bytes of the form at rest
)

// openSums reads what was remembered. What can't be read is forgotten.
func openSums(path string, log *slog.Logger) *sums {
	s := &sums{path: path, log: log, known: map[inode]sum{}, busy: map[inode]chan struct{}{}}
	old, err := readSums(path)
	if err != nil && !os.IsNotExist(err) {
		log.Warn("image files are read again", "error", err)
	}
	boot, err := sys.HostBootID()
	if err != nil || old.Version != 1 || old.BootID != boot {
		return s
	}
	for _, k := range old.Sums[:min(len(old.Sums), maxSums)] {
		s.known[inode{k.Stamp.Dev, k.Stamp.Ino}] = k
	}
	return s
}

func readSums(path string) (old sumsFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return old, err
	}
	defer f.Close()
	err = json.NewDecoder(io.LimitReader(f, maxSumsFile)).Decode(&old)
	return old, err
}

// of returns size and digest of an open file. It reads the file unless it is known
// unchanged; several callers at a time have it read once.
func (s *sums) of(ctx context.Context, f *os.File) (File, error) {
	for {
		now, err := stampOf(f)
		if err != nil {
			return File{}, err
		}
		id := inode{now.Dev, now.Ino}
		s.mu.Lock()
		if k, ok := s.known[id]; ok && k.Stamp == now {
			s.mu.Unlock()
			return File{Size: now.Size, SHA256: k.SHA256}, nil
		}
		wait, reading := s.busy[id]
		if !reading {
			done := make(chan struct{})
			s.busy[id] = done
			s.mu.Unlock()
			return s.read(ctx, f, now, done)
		}
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return File{}, fmt.Errorf("read image file %s: %w", f.Name(), context.Cause(ctx))
		}
	}
}

// maxReads is how often a file is read that changes while it is read.
const maxReads = 5

// read returns the digest of a file that had the stamp before. If the stamp changes
// meanwhile it reads the file again: a build that shares the file with another image
// links it, which changes the inode's ctime and nothing else.
func (s *sums) read(ctx context.Context, f *os.File, before stamp, done chan struct{}) (got File, err error) {
	id, keep := inode{before.Dev, before.Ino}, false
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, id)
		close(done)
		if err == nil && keep {
			s.known[id] = sum{before, got.SHA256}
			s.save()
		}
	}()
	for range maxReads {
		keep = tellsChanges(before, time.Now())
		if got, err = measureOpen(ctx, f, before.Size); err != nil {
			return File{}, err
		}
		after, err := stampOf(f)
		if err != nil || after == before {
			return got, err
		}
		before = after
	}
	return File{}, fmt.Errorf("read image file %s: it changed during each of %d reads", f.Name(), maxReads)
}

// tellsChanges reports whether any change from now on gives the file another stamp. File
// systems count time in ticks of the kernel, and some in seconds.
func tellsChanges(s stamp, now time.Time) bool {
	tick := 100 * time.Millisecond
	if s.Ctime%int64(time.Second) == 0 {
		tick = 2 * time.Second
	}
	return now.Sub(time.Unix(0, s.Ctime)) > tick
}

// save keeps what is known for the next process. Without it files are read again.
func (s *sums) save() {
	for id := range s.known { // any: it is read again when it is used
		if len(s.known) <= maxSums {
			break
		}
		delete(s.known, id)
	}
	boot, err := sys.HostBootID()
	if err == nil {
		out := sumsFile{Version: 1, BootID: boot}
		for _, k := range s.known {
			out.Sums = append(out.Sums, k)
		}
		err = sys.WriteJSON(s.path, out, 0o600)
	}
	if err != nil {
		s.log.Warn("remember checked image files", "error", err)
	}
}

// keepOnly forgets files that are not among the inodes.
func (s *sums) keepOnly(there map[inode]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.known)
	for id := range s.known {
		if !there[id] {
			delete(s.known, id)
		}
	}
	if len(s.known) != before {
		s.save()
	}
}
