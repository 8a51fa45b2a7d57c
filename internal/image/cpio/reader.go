package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Entry is a file of an archive.
type Entry struct {
	Name string // as in the archive, relative and without dots
	Mode uint32
	// Links is how many names the file has. Only the last of them in the archive has its
	// content; the others have a Size of 0.
	Links int64
	Size  int64
}

// Regular reports whether it is a regular file.
func (e Entry) Regular() bool { return e.Mode&0o170000 == typeRegular }

// Folder reports whether it is a folder.
func (e Entry) Folder() bool { return e.Mode&0o170000 == typeDir }

// Symlink reports whether it is a symbolic link. Its content is where it leads.
func (e Entry) Symlink() bool { return e.Mode&0o170000 == typeSymlink }

// Read calls fn with each entry of the archive that r begins with, in order, and its
// content, which fn may leave unread. It stops behind the end mark. The archive is not
// trusted: what is no archive is an error.
func Read(r io.Reader, fn func(Entry, io.Reader) error) error {
	c := &counted{r: r}
	for {
		e, err := readHeader(c)
		if err != nil {
			return fmt.Errorf("read cpio archive: %w", err)
		}
		if e.Name == trailer {
			return nil
		}
		content := &io.LimitedReader{R: c, N: e.Size}
		if err := fn(e, content); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, c, content.N); err != nil {
			return fmt.Errorf("read cpio entry %.80q: %w", e.Name, err)
		}
		if err := c.align(); err != nil {
			return fmt.Errorf("read cpio archive: %w", err)
		}
	}
}

// counted knows how far it has read.
type counted struct {
	r   io.Reader
	pos int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.pos += int64(n)
	return n, err
}

func (c *counted) align() error {
	_, err := io.CopyN(io.Discard, c, (align-c.pos%align)%align)
	return err
}

// readHeader reads a header and the name behind it.
func readHeader(c *counted) (e Entry, err error) {
	var h [110]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return e, err
	}
	if !bytes.Equal(h[:6], []byte(magic)) && !bytes.Equal(h[:6], []byte("070702")) {
		return e, errors.New("it is not in the newc form")
	}
	field := func(n int) int64 {
		v, perr := strconv.ParseUint(string(h[6+8*n:14+8*n]), 16, 32)
		err = errors.Join(err, perr)
		return int64(v)
	}
	mode, links, size, length := field(1), field(4), field(6), field(11)
	if err != nil {
		return e, err
	}
	if length < 1 || length > maxName+1 {
		return e, fmt.Errorf("a name has %d bytes", length)
	}
	name := make([]byte, length)
	if _, err := io.ReadFull(c, name); err != nil {
		return e, err
	}
	if name, _, _ = bytes.Cut(name, []byte{0}); string(name) == trailer {
		return Entry{Name: trailer}, nil
	}
	return Entry{Name: clean(string(name)), Mode: uint32(mode), Links: links, Size: size}, c.align()
}
