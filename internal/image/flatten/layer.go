package flatten

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory that a layer packed with zstd can ask for.
const maxWindow = 128 << 20

// layerReader reads a blob and what it unpacks to, and hashes both.
type layerReader struct {
	layer   Layer
	blob    io.Reader // hashed
	content io.Reader // unpacked, hashed, bounded
	closers []func()
	blobSum hash.Hash
	diffSum hash.Hash
}

// openLayer finds out how the blob is packed, by its first bytes.
func openLayer(ctx context.Context, l Layer, lim Limits) (*layerReader, error) {
	r := &layerReader{layer: l, blobSum: sha256.New(), diffSum: sha256.New()}
	buffered := bufio.NewReaderSize(io.TeeReader(ctxReader{ctx, l.Blob}, r.blobSum), 64<<10)
	r.blob = buffered
	unpacked, err := r.unpack(buffered)
	if err != nil {
		return nil, err
	}
	// Beside contents an archive has a few blocks for each entry.
	most := lim.Bytes + int64(lim.Entries)*1024 + 4*lim.Meta
	r.content = io.TeeReader(&bounded{r: unpacked, left: most}, r.diffSum)
	return r, nil
}

func (r *layerReader) unpack(in *bufio.Reader) (io.Reader, error) {
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read blob: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, refused("", "unpack gzip: %w", err)
		}
		return z, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, refused("", "unpack zstd: %w", err)
		}
		r.closers = append(r.closers, z.Close)
		return z, nil
	case bytes.HasPrefix(head, []byte("BZh")), bytes.Equal(head, []byte{0xfd, '7', 'z', 'X'}):
		return nil, refused("", "the blob begins with %x: it is packed with something else than gzip or zstd", head)
	}
	return in, nil
}

func (r *layerReader) close() {
	for _, c := range r.closers {
		c()
	}
}

// verify reads what is left and compares both digests.
func (r *layerReader) verify() error {
	if _, err := io.Copy(io.Discard, r.content); err != nil {
		return refused("", "read to the end: %w", err)
	}
	if _, err := io.Copy(io.Discard, r.blob); err != nil {
		return fmt.Errorf("read blob: %w", err)
	}
	if got := digest(r.diffSum); got != r.layer.DiffID {
		return refused("", "it unpacks to %s, the image's configuration says %s", got, r.layer.DiffID)
	}
	if got := digest(r.blobSum); r.layer.Digest != "" && got != r.layer.Digest {
		return refused("", "the blob is %s, the image's manifest says %s", got, r.layer.Digest)
	}
	return nil
}

func digest(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// bounded fails where a LimitReader would end.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("it unpacks to more than an image may have")
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// ctxReader ends a long read when the context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
