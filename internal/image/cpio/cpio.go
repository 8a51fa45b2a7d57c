// Package cpio writes initrd archives in the "newc" form, which Linux unpacks.
//
// An archive holds nothing of the machine that wrote it: inodes are numbered in the
// order of the calls, times are 0 and the owner is root, so that the same calls give
// the same bytes.
package cpio

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// File type bits of the mode field.
const (
	typeDir     = 0o040000
	typeRegular = 0o100000
	typeSymlink = 0o120000
	typeChar    = 0o020000
)

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
	align   = 4
	// maxSize is the largest file of the format, whose size has 8 hex digits.
	maxSize = 1<<32 - 1
	maxName = 4095
)

// ErrClosed is returned for writes after Close.
var ErrClosed = errors.New("cpio archive is closed")

// Writer writes one archive. The first error stays: every later call returns it.
// A Writer is not safe for concurrent use.
type Writer struct {
	out  io.Writer
	pos  int64
	ino  uint32
	seen map[string]bool
	err  error
}

// NewWriter returns a Writer to w. Close writes the end mark; it does not close w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{out: w, seen: map[string]bool{".": true}}
}

// Dir adds a folder. Folders that are there already are left as they are, so that
// callers may add the parents of each file.
func (w *Writer) Dir(name string, perm uint32) error {
	if w.err == nil && w.seen[clean(name)] {
		return nil
	}
	return w.entry(name, typeDir|perm&0o7777, 2, 0, nil, 0, 0)
}

// MkdirAll adds the folder and all of its parents that are not there yet, as 0755.
func (w *Writer) MkdirAll(name string) error {
	name = clean(name)
	for i, c := range name {
		if c == '/' {
			if err := w.Dir(name[:i], 0o755); err != nil {
				return err
			}
		}
	}
	return w.Dir(name, 0o755)
}

// File adds a regular file of exactly size bytes, read from r. Its parent must have
// been added.
func (w *Writer) File(name string, perm uint32, size int64, r io.Reader) error {
	return w.entry(name, typeRegular|perm&0o7777, 1, size, r, 0, 0)
}

// Bytes adds a regular file with the content.
func (w *Writer) Bytes(name string, perm uint32, content string) error {
	return w.File(name, perm, int64(len(content)), strings.NewReader(content))
}

// Symlink adds a symbolic link that leads to target.
func (w *Writer) Symlink(name, target string) error {
	return w.entry(name, typeSymlink|0o777, 1, int64(len(target)), strings.NewReader(target), 0, 0)
}

// Char adds a character device.
func (w *Writer) Char(name string, perm, major, minor uint32) error {
	return w.entry(name, typeChar|perm&0o7777, 1, 0, nil, major, minor)
}

// Close writes the end mark and pads the archive to a multiple of 512 bytes.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	w.ino = 0
	w.header(trailer, 0, 1, 0, 0, 0)
	w.pad(512)
	if w.err != nil {
		return w.err
	}
	w.err = ErrClosed
	return nil
}

// clean gives the name as it stands in the archive: relative, without dots.
func clean(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

func (w *Writer) entry(name string, mode uint32, links int, size int64, r io.Reader, major, minor uint32) error {
	if w.err != nil {
		return w.err
	}
	name = clean(name)
	if err := w.check(name, size); err != nil {
		w.err = err
		return err
	}
	w.seen[name] = true
	w.ino++
	w.header(name, mode, links, size, major, minor)
	if r != nil && w.err == nil {
		n, err := io.CopyN(w.out, r, size)
		w.pos += n
		if err != nil {
			w.err = fmt.Errorf("write cpio entry %s of %d bytes: %w", name, size, err)
		}
	}
	w.pad(align)
	return w.err
}

// check refuses what the kernel would unpack as something else.
func (w *Writer) check(name string, size int64) error {
	switch {
	case w.seen[name]:
		return fmt.Errorf("cpio entry %q is given twice", name)
	case !w.seen[path.Dir(name)]:
		return fmt.Errorf("cpio entry %q: its folder was not added", name)
	case name == trailer:
		return fmt.Errorf("cpio entry %q: the name is reserved", name)
	case len(name) > maxName || strings.ContainsRune(name, 0):
		return fmt.Errorf("cpio entry %.80q: the name is not allowed", name)
	case size < 0 || size > maxSize:
		return fmt.Errorf("cpio entry %q: %d bytes do not fit into the format", name, size)
	}
	return nil
}

func (w *Writer) header(name string, mode uint32, links int, size int64, major, minor uint32) {
	w.write(fmt.Sprintf("%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		magic, w.ino, mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name)+1, 0, name))
	w.pad(align)
}

func (w *Writer) write(s string) {
	if w.err != nil {
		return
	}
	n, err := io.WriteString(w.out, s)
	w.pos += int64(n)
	if err != nil {
		w.err = fmt.Errorf("write cpio archive: %w", err)
	}
}

func (w *Writer) pad(to int64) {
	if n := (to - w.pos%to) % to; n > 0 {
		w.write(strings.Repeat("\x00", int(n)))
	}
}
