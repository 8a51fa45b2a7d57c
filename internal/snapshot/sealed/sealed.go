// Package sealed is the format of the files of a snapshot: encrypted, each with a key of its
// own that the tenant's key wraps.
//
//	0     head, 4096 bytes
//	4096  the same head again
//	8192  body: chunks of 64 KiB, sealed
//	end   their tags, 16 bytes each
//
// Chunks are where pages of the file system begin: one that is being written to the disk is not
// written to again.
//
// A head is, little-endian:
//
//	0   "mvm seal"
//	8   version, 2 bytes
//	10  kind (segment, map, device state), 1 byte
//	11  codec (raw, zstd), 1 byte
//	12  0, 4 bytes
//	16  length of the content, 8 bytes
//	24  id of the tenant's key, 8 bytes
//	32  the file's key, wrapped: 64 bytes, with which the first 24 bytes and Meta.Bound are
//	    authenticated
//
// There are two heads so that a file can be wrapped anew (Rewrap) in place: at each moment
// one of them is whole. Where they differ, one that the reader's key opens counts.
//
// A chunk is sealed with AES-256-GCM under the file's key. The nonce is the number of the
// chunk, and Meta.Bound is authenticated with it, which says what the file is and whose. A
// key seals each chunk once: what is written again gets a new key.
//
// With zstd the chunks, each with its tag, follow each other without gaps, and then comes the
// sealed table of their sizes, 4 bytes each; the top bit says that compression did not pay and
// the chunk is as it was.
//
// A file is what it was or gone: a reader gets the content that was sealed or an error of
// type Error.
package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"

	"mvm"
	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

// Chunk is how many bytes of the content are sealed together.
const Chunk = 64 << 10

const (
	magic     = "mvm seal"
	version   = 1
	slotSize  = 4096
	headSize  = 32 + tenantkey.WrappedSize
	bodyAt    = 2 * slotSize
	tag       = 16
	sealedMax = Chunk + tag
)

// Kind is what a file of a snapshot is.
type Kind byte

// The kinds of files.
const (
	Segment Kind = 1 // pages of memory
	Map     Kind = 2 // where each page is
	Device  Kind = 3 // the state of devices
)

// Codec is how the content of a file is packed.
type Codec byte

// The codecs.
const (
	Raw  Codec = 0
	Zstd Codec = 1
)

// Meta is what a reader knows of a file before it opens it.
type Meta struct {
	Kind  Kind
	Bound string // says what the file is and whose, and is authenticated with all of it
	Limit int64  // the content has at most so many bytes
}

// Reason is what is wrong with a snapshot.
type Reason string

// The reasons.
const (
	Missing      Reason = "missing"       // a file is not there
	Damaged      Reason = "damaged"       // it is not what was sealed: cut off, changed or another file's
	OtherKey     Reason = "other key"     // it is sealed with another key than the given one
	OtherBase    Reason = "other base"    // it belongs to another base
	OtherVersion Reason = "other version" // a later mvm made it
	OtherMemory  Reason = "other memory"  // it is of a memory of another size
)

// Error says of a snapshot that it can't be read: trying again with the same files can't help.
// It never comes of a fault of the host.
type Error struct {
	Reason Reason
	Err    error // with the file's name; an mvm.Error of KindState
}

// Error returns what is wrong, and with which file.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Bad makes an Error about a file of a snapshot.
func Bad(reason Reason, path, format string, args ...any) error {
	return &Error{reason, mvm.Errorf(mvm.KindState, "read %s: %w", path, fmt.Errorf(format, args...))}
}

// ReasonOf is what is wrong with the snapshot, "" where err is not about the snapshot.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// Failed says what was tried with a file, and what to do where the host lacks something.
// Errors that are about the snapshot, and those that say what to do, stay as they are.
func Failed(verb, path string, err error) error {
	var told *mvm.Error
	if err == nil || ReasonOf(err) != "" || errors.As(err, &told) {
		return err
	}
	kind := mvm.KindInternal
	if _, ok := sys.Fault(err); ok {
		kind = mvm.KindUnavailable
	}
	return mvm.Errorf(kind, "%s %s: %w", verb, path, err).WithFix("%s", sys.FaultFix(err))
}

// head is what a file begins with.
type head struct {
	version uint16
	kind    Kind
	codec   Codec
	length  uint64
	keyID   [tenantkey.IDSize]byte
	wrapped [tenantkey.WrappedSize]byte
}

// parseHead reads a head; ok is false for what is none.
func parseHead(b []byte) (h head, ok bool) {
	if len(b) < headSize || string(b[:8]) != magic || binary.LittleEndian.Uint32(b[12:]) != 0 {
		return head{}, false
	}
	h.version, h.kind, h.codec = binary.LittleEndian.Uint16(b[8:]), Kind(b[10]), Codec(b[11])
	h.length = binary.LittleEndian.Uint64(b[16:])
	copy(h.keyID[:], b[24:])
	copy(h.wrapped[:], b[32:])
	return h, true
}

// bytes is the head as it is in the file.
func (h head) bytes() []byte {
	b := append(make([]byte, 0, headSize), magic...)
	b = binary.LittleEndian.AppendUint16(b, h.version)
	b = append(b, byte(h.kind), byte(h.codec), 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, h.length)
	b = append(b, h.keyID[:]...)
	return append(b, h.wrapped[:]...)
}

// bound is what is authenticated with the wrapped key.
func (h head) bound(to string) []byte { return append(h.bytes()[:24], to...) }

// wrap returns the head with the file's key wrapped by another key.
func (h head) wrap(key []byte, by *tenantkey.Key, to string) (head, error) {
	w, err := by.Wrap(key, h.bound(to))
	if err != nil {
		return h, err
	}
	h.keyID = by.ID()
	copy(h.wrapped[:], w)
	return h, nil
}

// chunks is how many chunks the content has.
func (h head) chunks() int64 { return int64((h.length + Chunk - 1) / Chunk) }

// plain is how long the content of a chunk is.
func (h head) plain(chunk int64) int { return int(min(Chunk, int64(h.length)-chunk*Chunk)) }

// newCipher is the cipher of a file's key.
func newCipher(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// nonceOf is the nonce of a chunk; tableNonce that of the table of sizes.
func nonceOf(chunk int64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), uint64(chunk))
}

func tableNonce() []byte { return []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} }
