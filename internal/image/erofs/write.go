package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// writer writes inodes and their contents at the places that they have.
type writer struct {
	plan *plan
	out  *os.File
	buf  []byte // a multiple of BlockSize
}

// inode writes one with its content.
func (w *writer) inode(i *inode) (err error) {
	content := io.Reader(strings.NewReader(i.node.Target))
	switch i.node.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		content = bytes.NewReader(w.plan.dirents(i))
	case unix.S_IFREG:
		if i.size == 0 {
			break
		}
		f, err := i.node.Open()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		content = f
	}
	if err := w.blocks(content, int64(i.block)*BlockSize, i.inBlocks()); err != nil {
		return err
	}
	head := i.encode()
	b := append(head, make([]byte, i.tail)...)
	if _, err := io.ReadFull(content, b[len(head):]); err != nil {
		return fmt.Errorf("read the end of %d bytes: %w", i.size, err)
	}
	_, err = w.out.WriteAt(b, i.at)
	return err
}

// blocks copies the next n bytes to the offset. Blocks of zeros stay holes of the file.
func (w *writer) blocks(r io.Reader, at, n int64) error {
	for n > 0 {
		b := w.buf[:min(n, int64(len(w.buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("read %d more bytes: %w", n, err)
		}
		for from, to := nextData(b, 0); from < len(b); from, to = nextData(b, to) {
			if _, err := w.out.WriteAt(b[from:to], at+int64(from)); err != nil {
				return err
			}
		}
		at, n = at+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// nextData returns the next stretch of blocks of b, from at on, that are not all zeros.
func nextData(b []byte, at int) (from, to int) {
	isZero := func(at int) bool {
		return len(bytes.TrimLeft(b[at:min(at+BlockSize, len(b))], "\x00")) == 0
	}
	for from = at; from < len(b) && isZero(from); from += BlockSize {
	}
	for to = from; to < len(b) && !isZero(to); to += BlockSize {
	}
	return min(from, len(b)), min(to, len(b))
}

// superblock writes it, and the checksum of the block that it is in. It comes last.
func (w *writer) superblock() error {
	first := make([]byte, BlockSize)
	if _, err := w.out.ReadAt(first, 0); err != nil {
		return err
	}
	copy(first[superOffset:], w.plan.super())
	seal(first)
	_, err := w.out.WriteAt(first, 0)
	return err
}
