package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Open is described at Store.
//
// The digest that a file was found to have is remembered with its device, inode, size,
// mtime and ctime, so a file that did not change costs a stat. It is remembered across
// restarts of the agent, and forgotten when the host boots.
func (s *DirStore) Open(ctx context.Context, img Image, f File) (*os.File, error) {
	path := filepath.Join(img.Dir, f.Name)
	file, err := openRegular(unix.AT_FDCWD, path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) {
		return nil, damaged(img, "%w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open image file: %w", err)
	}
	got, err := s.sums.of(ctx, file)
	if err == nil && got != (File{Size: f.Size, SHA256: f.SHA256}) {
		err = damaged(img, "%s has %d bytes and SHA-256 %s, not %d bytes and %s", path, got.Size, got.SHA256, f.Size, f.SHA256)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// check compares all files of the image with their digests, as Open does.
func (s *DirStore) check(ctx context.Context, img Image) error {
	for _, f := range img.files() {
		file, err := s.Open(ctx, img, f)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

var errNotRegular = errors.New("it is not a regular file")

// openRegular opens a file for reading that is no link. Nothing else in its place makes
// it wait.
func openRegular(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) { // a link, a socket
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	_ = unix.SetNonblock(fd, false)
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// measureOpen describes an open file, without its name. Its offset stays.
func measureOpen(ctx context.Context, f *os.File, size int64) (File, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, ctxReader{ctx, io.NewSectionReader(f, 0, size)}, make([]byte, 1<<20))
	if err != nil {
		return File{}, fmt.Errorf("read image file %s: %w", f.Name(), err)
	}
	return File{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// stamp is what changes when a file does.
type stamp struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // ns
}

func stampOf(f *os.File) (stamp, error) {
	info, err := f.Stat()
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, fmt.Errorf("stat %s: no inode", f.Name())
	}
	return stamp{Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}, nil
}
