package sealed

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

// File is a file that is open to read. It may be used from many goroutines.
type File struct {
	f     *os.File
	head  head
	aead  cipher.AEAD
	bound []byte
	tags  []byte // of the chunks, where the codec is Raw
	// at are the places of the chunks and of their end, and stored those that are as they
	// were, where it is Zstd.
	at     []int64
	stored []bool
	zstd   *zstd.Decoder
}

// slots reads the heads of a file, of which there may be fewer than two.
func slots(f io.ReaderAt) (heads [2]head, ok [2]bool, err error) {
	b := make([]byte, slotSize+headSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return heads, ok, err
	}
	b = b[:n]
	for i := range heads {
		heads[i], ok[i] = parseHead(b[min(i*slotSize, n):])
	}
	return heads, ok, nil
}

// unlock finds the head that the key opens, and the file's key.
func unlock(f *os.File, by *tenantkey.Key, meta Meta) (h head, key []byte, err error) {
	heads, ok, err := slots(f)
	if err != nil {
		return h, nil, Failed("read", f.Name(), err)
	}
	why := Bad(Damaged, f.Name(), "it has no head of a file of a snapshot")
	for i, h := range heads {
		switch {
		case !ok[i]:
		case h.version != version:
			why = Bad(OtherVersion, f.Name(), "its format is version %d, and this mvm reads %d", h.version, version)
		case by.Named(h.keyID) == nil:
			why = Bad(OtherKey, f.Name(), "it is sealed with key %x, and the tenant has %x", h.keyID, by.ID())
		default:
			if key, ok := by.Named(h.keyID).Unwrap(h.wrapped[:], h.bound(meta.Bound)); ok {
				return h, key, nil
			}
			why = Bad(Damaged, f.Name(), "its head was changed, or it is another file's")
		}
	}
	return h, nil, why
}

// Open opens a file to read. What it returns about the content is checked when it is read.
func Open(d *sys.Folder, name string, by *tenantkey.Key, meta Meta) (*File, error) {
	f, err := d.Open(name, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Bad(Missing, d.Path()+"/"+name, "%w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, Failed("open", d.Path()+"/"+name, err)
	}
	r, err := open(f, by, meta)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

func open(f *os.File, by *tenantkey.Key, meta Meta) (*File, error) {
	h, key, err := unlock(f, by, meta)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	st, err := f.Stat()
	if err != nil {
		return nil, Failed("read", f.Name(), err)
	}
	if h.kind != meta.Kind || h.length > uint64(meta.Limit) {
		return nil, Bad(Damaged, f.Name(), "it is of kind %d with %d bytes, want kind %d with at most %d", h.kind, h.length, meta.Kind, meta.Limit)
	}
	aead, err := newCipher(key)
	if err != nil {
		return nil, err
	}
	r := &File{f: f, head: h, aead: aead, bound: []byte(meta.Bound)}
	switch h.codec {
	case Raw:
		if err := r.readTags(st.Size()); err != nil {
			return nil, err
		}
	case Zstd:
		if err := r.readTable(st.Size()); err != nil {
			return nil, err
		}
		if r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(2*Chunk), zstd.WithDecoderConcurrency(0)); err != nil {
			return nil, err
		}
	default:
		return nil, Bad(OtherVersion, f.Name(), "this mvm does not know its codec %d", h.codec)
	}
	return r, nil
}

// storedBit says in the table that a chunk is not compressed.
const storedBit = 1 << 31

// tableSize is what the table of a compressed file takes.
func (h head) tableSize() int64 { return 4*h.chunks() + tag }

// readTags reads the chunks' tags, in a file of the size.
func (r *File) readTags(size int64) error {
	tags := bodyAt + int64(r.head.length)
	if want := tags + r.head.chunks()*tag; size != want {
		return Bad(Damaged, r.f.Name(), "it has %d bytes, want %d", size, want)
	}
	r.tags = make([]byte, size-tags)
	return r.readAt(r.tags, tags)
}

// readTable reads where the chunks are, in a file of the size.
func (r *File) readTable(size int64) (err error) {
	table := size - r.head.tableSize()
	if table < bodyAt {
		return Bad(Damaged, r.f.Name(), "it has %d bytes, and its table would have %d", size, r.head.tableSize())
	}
	b := make([]byte, size-table)
	if err := r.readAt(b, table); err != nil {
		return err
	}
	if b, err = r.aead.Open(b[:0], tableNonce(), b, r.bound); err != nil {
		return Bad(Damaged, r.f.Name(), "its table was changed, or it is cut off")
	}
	end := int64(bodyAt)
	r.at, r.stored = append(r.at, end), make([]bool, r.head.chunks())
	for i := range r.stored {
		e := binary.LittleEndian.Uint32(b[4*i:])
		r.stored[i] = e&storedBit != 0
		e &^= storedBit
		if e < tag || e > sealedMax {
			return Bad(Damaged, r.f.Name(), "its table gives chunk %d %d bytes", i, e)
		}
		end += int64(e)
		r.at = append(r.at, end)
	}
	if end != table {
		return Bad(Damaged, r.f.Name(), "its chunks end at %d, and its table begins at %d", end, table)
	}
	return nil
}

// readAt fills b from the place in the file.
func (r *File) readAt(b []byte, at int64) error {
	n, err := r.f.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return Bad(Damaged, r.f.Name(), "it is cut off at %d", at+int64(n))
	}
	return Failed("read", r.f.Name(), err)
}

// Length is how long the content is.
func (r *File) Length() int64 { return int64(r.head.length) }

// Codec is how the content is packed.
func (r *File) Codec() Codec { return r.head.codec }

// Path is where the file was when it was opened, for messages.
func (r *File) Path() string { return r.f.Name() }

// Prefetch has the host read the file ahead. Where it can't, reading takes longer.
func (r *File) Prefetch() { _ = unix.Fadvise(int(r.f.Fd()), 0, 0, unix.FADV_WILLNEED) }

// place is where the sealed chunk begins; that of the chunk behind the last is where it ends.
func (r *File) place(chunk int64) int64 {
	if r.at != nil {
		return r.at[chunk]
	}
	return bodyAt + min(chunk*Chunk, int64(r.head.length))
}

// Buffer is what ReadChunks works with. Each goroutine has its own.
type Buffer struct {
	sealed, packed []byte
	content        []byte
}

// ReadChunks reads and verifies chunks that follow each other, which need returns true for
// (nil: all), into one piece of memory, in which chunk first begins at 0. What is in the place
// of the others is no content. The result is good until the buffer is used again.
func (r *File) ReadChunks(first, count int64, need func(chunk int64) bool, b *Buffer) ([]byte, error) {
	if first < 0 || count < 0 || first+count > r.head.chunks() {
		return nil, Bad(Damaged, r.f.Name(), "it has %d chunks, and %d from %d are asked for", r.head.chunks(), count, first)
	}
	if count == 0 {
		return nil, nil
	}
	from := r.place(first)
	size := int(r.place(first+count) - from)
	b.sealed = grow(b.sealed, size+tag) // room for a tag behind the last
	if err := r.readAt(b.sealed[:size], from); err != nil {
		return nil, err
	}
	b.content = grow(b.content, int((count-1)*Chunk)+r.head.plain(first+count-1))
	for n := first; n < first+count; n++ {
		if need != nil && !need(n) {
			continue
		}
		into := b.content[(n-first)*Chunk:][:r.head.plain(n)]
		if err := r.openChunk(n, b.sealed[r.place(n)-from:r.place(n+1)-from], into, b); err != nil {
			return nil, err
		}
	}
	return b.content, nil
}

// openChunk verifies and unpacks a chunk.
func (r *File) openChunk(n int64, sealed, into []byte, b *Buffer) error {
	if r.zstd == nil {
		// The tag goes behind the chunk, in the place of what follows, which comes back.
		var after [tag]byte
		behind := sealed[len(sealed) : len(sealed)+tag]
		copy(after[:], behind)
		copy(behind, r.tags[n*tag:])
		sealed = sealed[:len(sealed)+tag]
		defer func() { copy(behind, after[:]) }()
	}
	if r.zstd == nil || r.stored[n] {
		if got, err := r.aead.Open(into[:0:len(into)], nonceOf(n), sealed, r.bound); err != nil || len(got) != len(into) {
			return Bad(Damaged, r.f.Name(), "chunk %d was changed, or is another file's", n)
		}
		return nil
	}
	packed, err := r.aead.Open(b.packed[:0], nonceOf(n), sealed, r.bound)
	if err != nil {
		return Bad(Damaged, r.f.Name(), "chunk %d was changed, or is another file's", n)
	}
	b.packed = packed
	got, err := r.zstd.DecodeAll(packed, into[:0:len(into)])
	if err != nil || len(got) != len(into) {
		return Bad(Damaged, r.f.Name(), "chunk %d can't be unpacked: %d bytes, want %d: %w", n, len(got), len(into), cmpErr(err))
	}
	if &got[0] != &into[0] {
		copy(into, got)
	}
	return nil
}

// cmpErr names what is wrong where the decoder found nothing wrong.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("another size")
	}
	return fmt.Errorf("zstd: %w", err)
}

// grow returns a slice of the length, of b where that is long enough.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// Read returns the whole content of a file.
func Read(d *sys.Folder, name string, by *tenantkey.Key, meta Meta) ([]byte, error) {
	r, err := Open(d, name, by, meta)
	if err != nil {
		return nil, err
	}
	b, err := r.ReadChunks(0, r.head.chunks(), nil, &Buffer{})
	return b, errors.Join(err, r.Close())
}

// Close lets go of the file.
func (r *File) Close() error { return errors.Join(r.f.Close(), r.closeZstd()) }

func (r *File) closeZstd() error {
	if r.zstd != nil {
		r.zstd.Close()
	}
	return nil
}
