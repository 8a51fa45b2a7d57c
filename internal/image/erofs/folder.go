package erofs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// FromFolder returns the tree of a folder, of which keep, called with the path in the
// folder, may leave something out or change it. Contents are read when the tree is written.
func FromFolder(ctx context.Context, dir string, keep func(name string, n *Node) bool) (*Node, error) {
	f := folder{ctx: ctx, dir: dir, keep: keep, files: map[[2]uint64]*Node{}}
	return f.node(".")
}

type folder struct {
	ctx   context.Context
	dir   string
	keep  func(name string, n *Node) bool
	files map[[2]uint64]*Node // those with several names, by device and inode
}

// node is that of a name; nil where keep leaves it out.
func (f *folder) node(name string) (*Node, error) {
	if err := context.Cause(f.ctx); err != nil {
		return nil, err
	}
	full := filepath.Join(f.dir, name)
	info, err := os.Lstat(full)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("stat %s: no inode", full)
	}
	n := &Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Sec, MtimeNsec: uint32(st.Mtim.Nsec)}
	if !f.keep(name, n) {
		return nil, nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return n, f.children(name, n)
	case unix.S_IFLNK:
		n.Target, err = os.Readlink(full)
		return n, err
	}
	n.Size = st.Size
	n.Open = func() (io.ReadCloser, error) { return openBuffered(full) }
	if st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if same := f.files[key]; same != nil {
			return same, nil
		}
		f.files[key] = n
	}
	return n, nil
}

func (f *folder) children(name string, n *Node) error {
	entries, err := os.ReadDir(filepath.Join(f.dir, name))
	if err != nil {
		return err
	}
	n.Children = map[string]*Node{}
	for _, e := range entries {
		c, err := f.node(path.Join(name, e.Name()))
		if err != nil {
			return err
		}
		if c != nil {
			n.Children[e.Name()] = c
		}
	}
	return nil
}

type buffered struct {
	*bufio.Reader
	io.Closer
}

func openBuffered(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return buffered{bufio.NewReaderSize(f, BlockSize), f}, nil
}
