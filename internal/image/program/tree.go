package program

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/cpio"
	"mvm/internal/manifest"
)

const (
	typeFile   = uint32(unix.S_IFREG)
	typeFolder = uint32(unix.S_IFDIR)
	typeLink   = uint32(unix.S_IFLNK)
)

// The most that an image may have; the agent's bounds are not smaller.
const (
	maxFiles = 100_000
	maxBytes = 512 << 20
)

// node is a file, folder or link of the image.
type node struct {
	mode    uint32 // with its type
	source  string // file of this machine with the content; empty: content has it
	size    int64
	content []byte // also where a link leads
}

// tree is what the image has, by absolute path.
type tree map[string]*node

// add adds a file of this machine, or a folder with all that is in it.
func (t tree) add(ctx context.Context, f manifest.ProgramFile) error {
	to := path.Clean(f.Path)
	info, err := os.Stat(f.Source)
	if errors.Is(err, fs.ErrNotExist) {
		return mvm.Errorf(mvm.KindInvalid, "image build: file %s does not exist", f.Source).WithFix("check the path; it is relative to the working folder, or to the Mvmfile that has it")
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "image build: add file: %w", err)
	}
	if info.IsDir() && f.Mode != 0 {
		return mvm.Errorf(mvm.KindInvalid, "image build: %s is a folder, whose files keep their modes: leave out the mode", f.Source)
	}
	if !info.IsDir() {
		if strings.HasSuffix(f.Path, "/") {
			to = path.Join(to, filepath.Base(f.Source))
		}
		return t.put(f.Source, to, f.Mode, info)
	}
	return filepath.WalkDir(f.Source, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("image build: read folder %s: %w", f.Source, err)
		}
		rel, err := filepath.Rel(f.Source, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if rel == "." {
			if to != "/" {
				t.folder(to)
			}
			return nil
		}
		return t.put(name, path.Join(to, filepath.ToSlash(rel)), 0, info)
	})
}

// put adds one file, folder or link.
func (t tree) put(source, to string, mode int, info fs.FileInfo) error {
	if err := image.CheckPath(to); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "image build: file %s: %w", source, err)
	}
	if to == "/init" {
		return mvm.Errorf(mvm.KindInvalid, "image build: file %s: /init is mvm-guest: choose another path", source)
	}
	old := t[to]
	switch n := (&node{source: source, size: info.Size()}); info.Mode().Type() {
	case 0:
		if n.mode = typeFile | uint32(mode); mode == 0 {
			n.mode = typeFile | 0o644
			if info.Mode()&0o100 != 0 {
				n.mode = typeFile | 0o755
			}
		}
		t[to] = n
	case fs.ModeDir:
		if old == nil || old.mode&unix.S_IFMT != typeFolder {
			t[to] = &node{mode: typeFolder | 0o755}
		}
		return nil
	case fs.ModeSymlink:
		target, err := os.Readlink(source)
		if err != nil {
			return fmt.Errorf("image build: %w", err)
		}
		t[to] = &node{mode: typeLink | 0o777, size: int64(len(target)), content: []byte(target)}
	default:
		return mvm.Errorf(mvm.KindInvalid, "image build: %s is a device, pipe or socket; an image has files, folders and links", source)
	}
	if old != nil && (old.source != source || old.mode != t[to].mode) {
		return mvm.Errorf(mvm.KindInvalid, "image build: two files are for %s: %s and %s", to, old.source, source)
	}
	return nil
}

// folder adds an empty folder.
func (t tree) folder(at string) {
	if t[at] == nil {
		t[at] = &node{mode: typeFolder | 0o755}
	}
}

// check refuses a tree that is too large, or that has files below files.
func (t tree) check() error {
	if t.bytes() > maxBytes || len(t) > maxFiles {
		return mvm.Errorf(mvm.KindInvalid, "image build: %d files of %d MiB are more than %d files or %d MiB: they are in the guest's memory", len(t), t.bytes()>>20, maxFiles, maxBytes>>20).
			WithFix("leave out what the program does not need, or make an image with a root filesystem")
	}
	for _, p := range slices.Sorted(maps.Keys(t)) {
		for d := path.Dir(p); d != "/"; d = path.Dir(d) {
			if n := t[d]; n != nil && n.mode&unix.S_IFMT != typeFolder {
				return mvm.Errorf(mvm.KindInvalid, "image build: %s is below %s, which is no folder", p, d)
			}
		}
	}
	return nil
}

func (t tree) bytes() (n int64) {
	for _, f := range t {
		n += f.length()
	}
	return n
}

func (n *node) length() int64 {
	if n.source == "" {
		return int64(len(n.content))
	}
	return n.size
}

func (t tree) files() (n int) {
	for _, f := range t {
		if f.mode&unix.S_IFMT != typeFolder {
			n++
		}
	}
	return n
}

// archive writes the tree in the order of its paths.
func (t tree) archive(ctx context.Context, w *cpio.Writer) error {
	for _, p := range slices.Sorted(maps.Keys(t)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := w.MkdirAll(path.Dir(p)); err != nil {
			return err
		}
		if err := t[p].write(w, p); err != nil {
			return err
		}
	}
	return w.Close()
}

func (n *node) write(w *cpio.Writer, p string) error {
	switch perm := n.mode & 0o7777; {
	case n.mode&unix.S_IFMT == typeFolder:
		return w.Dir(p, perm)
	case n.mode&unix.S_IFMT == typeLink:
		return w.Symlink(p, string(n.content))
	case n.source == "":
		return w.Bytes(p, perm, string(n.content))
	default:
		return n.copy(w, p, perm)
	}
}

func (n *node) copy(w *cpio.Writer, p string, perm uint32) error {
	f, err := os.OpenFile(n.source, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := f.Stat()
	if err == nil && (!before.Mode().IsRegular() || before.Size() != n.size) {
		err = fmt.Errorf("%s has changed", n.source)
	}
	if err != nil {
		return err
	}
	if err := w.File(p, perm, n.size, f); err != nil {
		return err
	}
	after, err := f.Stat()
	if err == nil && (after.Size() != n.size || !after.ModTime().Equal(before.ModTime())) {
		err = fmt.Errorf("%s was changed while it was read: build again when nobody writes to it", n.source)
	}
	return err
}
