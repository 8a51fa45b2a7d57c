package filecopy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Source is what Send sends.
type Source struct {
	Path string
	// Follow: where Path is a symlink, what it leads to is sent. Links below it are sent as
	// links.
	Follow bool
	// Skipped, where given, is told of what is left out, such as devices and sockets.
	Skipped func(path, why string)
}

// Send writes the file or folder to w.
func Send(w io.Writer, src Source) error {
	s := &sender{w: &writer{w: bufio.NewWriterSize(w, maxChunk)}, src: src, names: newNames(), buf: make([]byte, maxChunk)}
	err := s.all()
	if err == nil {
		err = s.w.err
	}
	if err == nil {
		err = s.w.w.Flush()
	}
	return err
}

type sender struct {
	w     *writer
	src   Source
	names *names
	buf   []byte
}

func (s *sender) all() error {
	path := filepath.Clean(s.src.Path)
	if s.src.Follow {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		path = real
	}
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	s.w.bytes([]byte(magic))
	if st.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := s.folder(root, path, st, 1); err != nil {
			return err
		}
	} else {
		parent, err := os.OpenRoot(filepath.Dir(path))
		if err != nil {
			return err
		}
		defer parent.Close()
		if why := leftOut(st.Mode()); why != "" {
			return fmt.Errorf("%s: %s", path, why)
		}
		if err := s.entry(parent, path, st, 1); err != nil {
			return err
		}
	}
	s.w.bytes([]byte{recDone})
	return nil
}

// leftOut says why what has the mode is not sent.
func leftOut(m fs.FileMode) string {
	switch {
	case m.IsRegular(), m.IsDir(), m&fs.ModeSymlink != 0:
		return ""
	case m&fs.ModeDevice != 0:
		return "it is a device"
	case m&fs.ModeSocket != 0:
		return "it is a socket"
	case m&fs.ModeNamedPipe != 0:
		return "it is a named pipe"
	}
	return "it is not a file, folder or symlink"
}

func (s *sender) skip(path, why string) {
	if s.src.Skipped != nil {
		s.src.Skipped(path, why)
	}
}

// entry sends what is in the folder parent under the last name of path.
func (s *sender) entry(parent *os.Root, path string, st fs.FileInfo, depth int) error {
	name := filepath.Base(path)
	if why := leftOut(st.Mode()); why != "" {
		s.skip(path, why)
		return nil
	}
	switch {
	case st.IsDir():
		root, err := parent.OpenRoot(name)
		if err != nil {
			return s.gone(path, err)
		}
		defer root.Close()
		return s.folder(root, path, st, depth)
	case st.Mode()&fs.ModeSymlink != 0:
		target, err := parent.Readlink(name)
		if err != nil {
			return s.gone(path, err)
		}
		h := s.header(st)
		h.Link = raw(target)
		s.w.entry(kindLink, h)
		return s.w.err
	}
	f, err := parent.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return s.gone(path, err)
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if !now.Mode().IsRegular() {
		s.skip(path, "it changed while it was opened")
		return nil
	}
	s.w.entry(kindFile, s.header(st))
	return s.data(f, now.Size())
}

// gone takes what vanished since its folder was read for what it is; other errors stay.
func (s *sender) gone(path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.skip(path, "it is not there any more")
	return nil
}

func (s *sender) folder(root *os.Root, path string, st fs.FileInfo, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d folders in each other", path, maxDepth)
	}
	s.w.entry(kindFolder, s.header(st))
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		list, err := dir.ReadDir(256)
		for _, e := range list {
			below := filepath.Join(path, e.Name())
			in, err := root.Lstat(e.Name())
			if err == nil && in.IsDir() && ofKernel(st, in, below) {
				s.skip(below, "it is a file system of the kernel")
				continue
			}
			if err == nil {
				err = s.entry(root, below, in, depth+1)
			} else {
				err = s.gone(below, err)
			}
			if err == nil {
				err = s.w.err
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	s.w.bytes([]byte{recUp})
	return s.w.err
}

// ofKernel reports that a folder is a mount of files that the kernel makes up, such as /proc.
func ofKernel(parent, st fs.FileInfo, path string) bool {
	above, ok1 := parent.Sys().(*syscall.Stat_t)
	own, ok2 := st.Sys().(*syscall.Stat_t)
	if !ok1 || !ok2 || above.Dev == own.Dev {
		return false
	}
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return false
	}
	switch int64(fs.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.BPF_FS_MAGIC, unix.BINFMTFS_MAGIC:
		return true
	}
	return false
}

// data sends what a file of the size holds, without its holes, and not what is written to
// it meanwhile. The kernel's own files say that they are empty and are read to their end.
func (s *sender) data(f *os.File, size int64) error {
	if size == 0 {
		n, err := s.copy(f, 0, maxUnsized)
		if err == nil {
			s.w.size(n)
		}
		return err
	}
	for at := int64(0); at < size; {
		from, to := extent(f, at, size)
		if _, err := s.copy(f, from, to); err != nil {
			return err
		}
		at = to
	}
	s.w.size(size)
	return s.w.err
}

// maxUnsized bounds what is read of a file that does not say how large it is.
const maxUnsized = 64 << 20

// extent returns the next data from at on; all of it where the file system can't tell.
func extent(f *os.File, at, size int64) (from, to int64) {
	from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size
	case err != nil:
		return at, size
	}
	to, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
	if err != nil {
		to = size
	}
	return min(from, size), min(to, size)
}

// copy sends the bytes between, and returns where they ended.
func (s *sender) copy(f *os.File, from, to int64) (int64, error) {
	for from < to {
		n, err := f.ReadAt(s.buf[:min(int64(len(s.buf)), to-from)], from)
		if n > 0 {
			s.w.chunk(from, s.buf[:n])
			from += int64(n)
		}
		if s.w.err != nil {
			return from, s.w.err
		}
		if errors.Is(err, io.EOF) {
			return from, nil // it was cut off meanwhile: the rest is a hole
		}
		if err != nil {
			return from, err
		}
	}
	return from, nil
}

func (s *sender) header(st fs.FileInfo) header {
	h := header{Name: raw(st.Name()), Mode: uint32(st.Mode().Perm()), MTime: st.ModTime().UnixNano()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		h.Mode, h.UID, h.GID = sys.Mode&0o7777, int(sys.Uid), int(sys.Gid)
		h.User, h.Group = s.names.user(strconv.Itoa(h.UID)), s.names.group(strconv.Itoa(h.GID))
	}
	return h
}
