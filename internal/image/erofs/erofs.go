// Package erofs writes read-only root file systems: uncompressed EROFS images, which a
// guest without hardware virtualization reads faster than compressed ones.
//
// The same tree gives the same bytes. A Node under several names is one inode with that
// many hard links. The image is a multiple of BlockSize long.
package erofs

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// BlockSize is that of every image.
const BlockSize = 4096

// Node is a file, a folder or a link of the tree that an image is made of.
type Node struct {
	Mode      uint32 // type and permissions, as stat has them
	UID, GID  uint32
	Mtime     int64 // seconds
	MtimeNsec uint32
	Xattrs    map[string]string // by their full names

	// Size is that of a regular file, whose content Open returns.
	Size int64
	Open func() (io.ReadCloser, error)
	// Target is where a symbolic link leads to.
	Target string
	// Children are what a folder has, by name.
	Children map[string]*Node
}

// IsDir reports whether the node is a folder.
func (n *Node) IsDir() bool { return n.Mode&unix.S_IFMT == unix.S_IFDIR }

// Bounds of what the format or the kernel can hold.
const (
	MaxName       = 255
	MaxTarget     = 4095
	MaxXattrValue = 65535
	maxXattrs     = 12 + 4*65534 // bytes of the attributes of one inode
)

// check refuses what no image of ours has: devices, pipes and sockets.
func (n *Node) check(path string) error {
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		for name := range n.Children {
			if name == "" || name == "." || name == ".." || len(name) > MaxName || strings.ContainsAny(name, "/\x00") {
				return fmt.Errorf("%q: %.300q is no name of a file", path, name)
			}
		}
	case unix.S_IFREG:
		if n.Size < 0 || n.Size > 0 && n.Open == nil {
			return fmt.Errorf("%q: %d bytes without content", path, n.Size)
		}
	case unix.S_IFLNK:
		if n.Target == "" || len(n.Target) > MaxTarget {
			return fmt.Errorf("%q: a link to %d bytes, not 1 to %d", path, len(n.Target), MaxTarget)
		}
	default:
		return fmt.Errorf("%q: mode %o is neither a file, a folder nor a link", path, n.Mode)
	}
	return nil
}

// Write writes the tree as an image into the empty file out.
func Write(ctx context.Context, out *os.File, root *Node) error {
	p := plan{inodes: map[*Node]*inode{}}
	if err := p.add("/", root, nil); err != nil {
		return err
	}
	if err := p.place(); err != nil {
		return err
	}
	size := int64(p.blocks) * BlockSize
	if err := out.Truncate(size); err != nil {
		return err
	}
	w := writer{plan: &p, out: out, buf: make([]byte, 64*BlockSize)}
	for _, i := range p.order {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := w.inode(i); err != nil {
			return fmt.Errorf("write %q: %w", i.path, err)
		}
	}
	return w.superblock()
}

// add puts the node and all below it into the order in which inodes are written: a folder
// and then what it has, so that a walk reads forward.
func (p *plan) add(path string, n *Node, parent *inode) error {
	if i := p.inodes[n]; i != nil {
		if n.IsDir() {
			return fmt.Errorf("%q: the folder is also %q: only files can have several names", path, i.path)
		}
		i.links++
		return nil
	}
	if err := n.check(path); err != nil {
		return err
	}
	i := &inode{node: n, path: path, number: uint32(len(p.order) + 1), links: 1}
	if i.parent = parent; parent == nil {
		i.parent = i
		if !n.IsDir() {
			return fmt.Errorf("%q is no folder", path)
		}
	}
	var err error
	if i.xattrs, err = encodeXattrs(n.Xattrs); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	p.inodes[n] = i
	p.order = append(p.order, i)
	if !n.IsDir() {
		return nil
	}
	i.links = 2
	prefix := strings.TrimSuffix(path, "/") + "/"
	for _, name := range slices.Sorted(maps.Keys(n.Children)) {
		c := n.Children[name]
		if c.IsDir() {
			i.links++
		}
		if err := p.add(prefix+name, c, i); err != nil {
			return err
		}
	}
	return nil
}
