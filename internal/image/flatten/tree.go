package flatten

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"mvm/internal/image/erofs"
)

// maxFollowed is how many symbolic links a path may lead through, as in Linux.
const maxFollowed = 40

// node is a Node of the tree with what layers need to know of it.
type node struct {
	erofs.Node
	names    int // beside the first
	children map[string]child
}

// child is a name in a folder. A file may have several, in several layers.
type child struct {
	*node
	layer int // whose entry made or changed it last
}

// newFolder is one that no entry tells of.
func newFolder() *node {
	return &node{Node: erofs.Node{Mode: unix.S_IFDIR | 0o755}, children: map[string]child{}}
}

// set gives the node a name, in place of what has it.
func (f *Flattener) set(dir *node, name string, n *node) { dir.children[name] = child{n, f.layer} }

func (n *node) isDir() bool { return n.children != nil }

// parent returns the folder of the path and makes what is missing.
func (f *Flattener) parent(parts []string) (*node, error) { return f.walk(parts, true) }

// find returns the folder of the path.
func (f *Flattener) find(parts []string) (*node, error) { return f.walk(parts, false) }

// walk follows the path from the root. Symbolic links in the image are followed as its
// guest would follow them, but a link that climbs above the root is refused: a tool that
// unpacks images to a disk would write there.
func (f *Flattener) walk(parts []string, create bool) (*node, error) {
	way := []*node{f.root}
	todo := slices.Clone(parts)
	for followed := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(way) == 1 {
				return nil, fmt.Errorf("its folder %.300q leads out of the image", join(parts))
			}
			way = way[:len(way)-1]
			continue
		}
		here := way[len(way)-1]
		next := here.children[name].node
		switch {
		case next == nil && !create:
			return nil, fmt.Errorf("folder %.300q is not there", join(parts))
		case next == nil:
			if len(way) > f.limits.Depth {
				return nil, fmt.Errorf("it is in more than %d folders", f.limits.Depth)
			}
			next = newFolder()
			f.set(here, name, next)
		case next.Target != "":
			if followed++; followed > maxFollowed {
				return nil, fmt.Errorf("its folder %.300q leads through more than %d links, or in a circle", join(parts), maxFollowed)
			}
			if strings.HasPrefix(next.Target, "/") {
				way = way[:1]
			}
			todo = append(strings.Split(next.Target, "/"), todo...)
			continue
		case !next.isDir():
			return nil, fmt.Errorf("its folder %.300q is a file", join(parts))
		}
		way = append(way, next)
	}
	return way[len(way)-1], nil
}

// prune removes from the folder what is not of the present layer.
func (f *Flattener) prune(dir *node) {
	for name, c := range dir.children {
		if f.pruneChild(c) {
			delete(dir.children, name)
		}
	}
}

// pruneChild removes what lower layers have below the name, and reports whether the name
// itself is of a lower one and nothing is left below it.
func (f *Flattener) pruneChild(c child) bool {
	if c.isDir() {
		f.prune(c.node)
	}
	return c.layer < f.layer && len(c.children) == 0
}

// finish is the tree as it is written.
func (n *node) finish() *erofs.Node {
	if n.isDir() {
		n.Children = make(map[string]*erofs.Node, len(n.children))
		for name, c := range n.children {
			n.Children[name] = c.finish()
		}
	}
	return &n.Node
}

// Put adds a file of the host's, or replaces one. Links on its way are followed within the
// tree.
func (f *Flattener) Put(name string, n *erofs.Node) error {
	dir, last, err := f.place(name)
	if err != nil {
		return err
	}
	f.set(dir, last, &node{Node: *n})
	return nil
}

// Folder adds a folder where there is none.
func (f *Flattener) Folder(name string, mode uint32) error {
	dir, last, err := f.place(name)
	if err != nil {
		return err
	}
	if c := dir.children[last]; c.node == nil || !c.isDir() {
		n := newFolder()
		n.Mode = unix.S_IFDIR | mode
		f.set(dir, last, n)
	}
	return nil
}

func (f *Flattener) place(name string) (dir *node, last string, err error) {
	parts, err := f.split(name)
	if err == nil && len(parts) == 0 {
		err = errors.New("it is the root")
	}
	if err == nil {
		dir, err = f.parent(parts[:len(parts)-1])
	}
	if err != nil {
		return nil, "", fmt.Errorf("add %.300q to the image: %w", name, err)
	}
	return dir, parts[len(parts)-1], nil
}

// Has reports whether the folder has files whose names end so.
func (f *Flattener) Has(dir, suffix string) bool {
	parts, err := f.split(dir)
	if err != nil {
		return false
	}
	n, err := f.find(parts)
	if err != nil {
		return false
	}
	for name := range n.children {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
