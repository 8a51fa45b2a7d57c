package store

import (
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// reserveBytes is how much of the file beyond what is used has blocks on disk.
const reserveBytes = 8 << 20

// reserve gives blocks to the part of the file that the next commits will use, so
// that they succeed on a disk that others have filled. It is best effort: without
// space a commit that needs more still fails cleanly.
func (s *Store) reserve(db *bbolt.DB) {
	var used int64
	if err := db.View(func(tx *bbolt.Tx) error { used = tx.Size(); return nil }); err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if used+reserveBytes/2 <= s.reserved {
		return
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, used+reserveBytes) == nil {
		s.reserved = used + reserveBytes
	}
}
