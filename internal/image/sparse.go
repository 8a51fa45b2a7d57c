package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyChunk is what is read at a time.
const copyChunk = 1 << 20

// copyOpen copies an open file of the size to a new file, and describes what it copied,
// without its name. Holes stay holes.
func copyOpen(ctx context.Context, in *os.File, size int64, to string) (got File, err error) {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return File{}, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	h := sha256.New()
	c := copier{ctx: ctx, in: in, out: out, h: h, buf: make([]byte, copyChunk)}
	for at := int64(0); at < size; {
		data, hole, err := nextData(in, at, size)
		if err == nil {
			err = c.zeros(data - at)
		}
		if err == nil {
			err = c.data(data, hole)
		}
		if err != nil {
			return File{}, fmt.Errorf("copy %s: %w", in.Name(), err)
		}
		at = hole
	}
	if err := out.Truncate(size); err != nil {
		return File{}, fmt.Errorf("copy %s: %w", in.Name(), err)
	}
	return File{Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// nextData returns where the next bytes from at on that are no hole begin and end. A file
// system without holes has one stretch of data.
func nextData(f *os.File, at, size int64) (from, to int64, err error) {
	from, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // only a hole is left
		return size, size, nil
	case errors.Is(err, unix.EINVAL):
		return at, size, nil
	case err != nil:
		return 0, 0, err
	}
	to, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
	return min(from, size), min(to, size), err
}

// copier copies and hashes parts of a file, in their order.
type copier struct {
	ctx     context.Context
	in, out *os.File
	h       io.Writer
	buf     []byte
}

func (c *copier) zeros(n int64) error {
	clear(c.buf)
	for ; n > 0 && c.ctx.Err() == nil; n -= copyChunk {
		if _, err := c.h.Write(c.buf[:min(n, copyChunk)]); err != nil {
			return err
		}
	}
	return context.Cause(c.ctx)
}

func (c *copier) data(from, to int64) error {
	for from < to {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		part := c.buf[:min(to-from, copyChunk)]
		if _, err := c.in.ReadAt(part, from); errors.Is(err, io.EOF) {
			return errors.New("it became shorter meanwhile")
		} else if err != nil {
			return err
		}
		if _, err := c.h.Write(part); err != nil {
			return err
		}
		if _, err := c.out.WriteAt(part, from); err != nil {
			return err
		}
		from += int64(len(part))
	}
	return nil
}
