package sealed

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

// Writer makes a file. It ends with Commit or Abort.
type Writer struct {
	d    *sys.Folder
	name string
	meta Meta
	key  []byte // the file's own
	aead cipher.AEAD
	f    *os.File
	by   *tenantkey.Key

	mu   sync.Mutex
	tags []byte // of the chunks
}

// Create begins a file, 0600, in place of what has its name.
func Create(d *sys.Folder, name string, by *tenantkey.Key, meta Meta) (*Writer, error) {
	key := make([]byte, tenantkey.Size)
	rand.Read(key)
	aead, err := newCipher(key)
	if err != nil {
		return nil, err
	}
	f, err := d.Create(name)
	if err != nil {
		return nil, Failed("create", d.Path()+"/"+name, err)
	}
	return &Writer{d: d, name: name, meta: meta, key: key, aead: aead, f: f, by: by}, nil
}

// WriteChunks seals chunks that follow each other and writes them. The content is of whole
// chunks; only the last of the file may be shorter. Each chunk is written once. It may be
// called from many goroutines. scratch is used where it is long enough, and returned.
func (w *Writer) WriteChunks(first int64, content, scratch []byte) ([]byte, error) {
	out, tags := grow(scratch, len(content)+tag)[:0], []byte(nil)
	for n := first; len(content) > 0; n++ {
		c := content[:min(Chunk, len(content))]
		sealed := w.aead.Seal(out, nonceOf(n), c, []byte(w.meta.Bound))
		out, tags = sealed[:len(out)+len(c)], append(tags, sealed[len(out)+len(c):]...)
		content = content[len(c):]
	}
	w.keep(first, tags)
	at := int64(bodyAt + first*Chunk)
	if _, err := w.f.WriteAt(out, at); err != nil {
		return out, Failed("write", w.f.Name(), err)
	}
	// The disk begins at once, so that Commit finds little left to do. Where a file system
	// does not know the call, Commit does all of it.
	_ = unix.SyncFileRange(int(w.f.Fd()), at, int64(len(out)), unix.SYNC_FILE_RANGE_WRITE)
	return out, nil
}

// keep remembers the tags of chunks.
func (w *Writer) keep(first int64, tags []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := int(first)*tag + len(tags); len(w.tags) < n {
		w.tags = append(w.tags, make([]byte, n-len(w.tags))...)
	}
	copy(w.tags[first*tag:], tags)
}

// Commit writes the heads and makes the content durable. The name is durable once the folder
// is synced, which is the caller's. After an error the file is gone.
func (w *Writer) Commit(length int64) error { return w.commit(Raw, length, w.tags, bodyAt+length) }

// commit ends the file with a table at the place.
func (w *Writer) commit(codec Codec, length int64, table []byte, at int64) error {
	h, err := head{version: version, kind: w.meta.Kind, codec: codec, length: uint64(length)}.wrap(w.key, w.by, w.meta.Bound)
	clear(w.key)
	if err == nil {
		heads := make([]byte, slotSize+headSize)
		copy(heads, h.bytes())
		copy(heads[slotSize:], h.bytes())
		_, err = w.f.WriteAt(append(heads, make([]byte, bodyAt-len(heads))...), 0)
	}
	if err == nil {
		_, err = w.f.WriteAt(table, at)
	}
	if err == nil {
		err = w.f.Sync()
	}
	if err = errors.Join(err, w.f.Close()); err != nil {
		err = errors.Join(err, w.d.Remove(w.name))
	}
	return Failed("write", w.f.Name(), err)
}

// Abort removes the file.
func (w *Writer) Abort() error {
	clear(w.key)
	return errors.Join(w.f.Close(), w.d.Remove(w.name))
}

// Fill writes all that the reader gives, at most Meta.Limit bytes, and returns how long it was.
func (w *Writer) Fill(from io.Reader) (length int64, err error) {
	buf, scratch := make([]byte, Chunk), []byte(nil)
	for n := int64(0); ; n++ {
		got, rerr := io.ReadFull(from, buf)
		if length += int64(got); length > w.meta.Limit {
			return 0, mvm.Errorf(mvm.KindInternal, "write %s: its content has more than %d bytes", w.f.Name(), w.meta.Limit)
		}
		if got > 0 {
			if scratch, err = w.WriteChunks(n, buf[:got], scratch); err != nil {
				return 0, err
			}
		}
		switch {
		case errors.Is(rerr, io.EOF), errors.Is(rerr, io.ErrUnexpectedEOF):
			return length, nil
		case rerr != nil:
			return 0, Failed("read the content of", w.f.Name(), rerr)
		}
	}
}
