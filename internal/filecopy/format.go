// Package filecopy carries a file or a folder from one machine to another over a stream.
//
// Nothing that comes is trusted. Names are one component each and the folders are nested
// records, so an entry can't name a place outside the target; a symlink is made as it
// comes and is never followed; there are no devices. A file is written under another name
// and gets its own when it is whole.
//
// The stream is the magic, one entry, and an end. Numbers are big-endian.
//
//	file    'f' header, chunks of data 'c' offset (8) length (4) bytes, 'e' size (8)
//	folder  'd' header, entries, 'u'
//	symlink 'l' header
//	end     'z'
//
// A header is a length (4) and JSON. What lies between chunks is a hole and stays one.
package filecopy

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	magic = "MVMCOPY1"

	kindFile, kindFolder, kindLink    = 'f', 'd', 'l'
	recChunk, recSize, recUp, recDone = 'c', 'e', 'u', 'z'

	maxHeader = 16 << 10
	maxChunk  = 64 << 10
	maxDepth  = 200 // folders, each of which is held open
	maxName   = 255
	maxTarget = 4095 // of a symlink
)

// header is what an entry says of itself. The name of the first entry is nobody's: the
// receiver has its own.
type header struct {
	Name  raw    `json:"name"`
	Mode  uint32 `json:"mode"`  // permissions, with setuid, setgid and sticky as in stat
	MTime int64  `json:"mtime"` // ns
	UID   int    `json:"uid"`
	GID   int    `json:"gid"`
	User  string `json:"user,omitempty"`
	Group string `json:"group,omitempty"`
	Link  raw    `json:"link,omitempty"`
}

// raw is a name as the kernel has it, which need not be text: JSON has it in base64.
type raw string

// MarshalJSON writes the bytes.
func (r raw) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(r)) }

// UnmarshalJSON reads the bytes.
func (r *raw) UnmarshalJSON(b []byte) error {
	var p []byte
	err := json.Unmarshal(b, &p)
	*r = raw(p)
	return err
}

// check refuses a header that an honest sender does not send.
func (h header) check(kind byte, first bool) error {
	switch {
	case !first && (h.Name == "" || h.Name == "." || h.Name == ".." || len(h.Name) > maxName || strings.ContainsAny(string(h.Name), "/\x00")):
		return fmt.Errorf("%.80q is no name of a file", h.Name)
	case kind == kindLink && (h.Link == "" || len(h.Link) > maxTarget || strings.ContainsRune(string(h.Link), 0)):
		return fmt.Errorf("%.80q is no target of a symlink", h.Link)
	}
	return nil
}

// writer writes records; the first error stays.
type writer struct {
	w   *bufio.Writer
	err error
}

func (w *writer) bytes(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

func (w *writer) entry(kind byte, h header) {
	b, err := json.Marshal(h)
	if err == nil && len(b) > maxHeader {
		err = fmt.Errorf("what there is to say of %.80q is too long", h.Name)
	}
	if err != nil && w.err == nil {
		w.err = err
	}
	w.bytes(append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b))), b...))
}

func (w *writer) chunk(at int64, b []byte) {
	head := binary.BigEndian.AppendUint64([]byte{recChunk}, uint64(at))
	w.bytes(binary.BigEndian.AppendUint32(head, uint32(len(b))))
	w.bytes(b)
}

func (w *writer) size(n int64) { w.bytes(binary.BigEndian.AppendUint64([]byte{recSize}, uint64(n))) }

// reader reads records, each bounded before it is read.
type reader struct{ r *bufio.Reader }

func (r reader) full(b []byte) error {
	_, err := io.ReadFull(r.r, b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (r reader) kind() (byte, error) {
	b, err := r.r.ReadByte()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func (r reader) number(size int) (uint64, error) {
	var b [8]byte
	err := r.full(b[8-size:])
	return binary.BigEndian.Uint64(b[:]), err
}

func (r reader) header(kind byte, first bool) (h header, err error) {
	n, err := r.number(4)
	if err != nil {
		return h, err
	}
	if n > maxHeader {
		return h, fmt.Errorf("a header has %d bytes, more than %d", n, maxHeader)
	}
	b := make([]byte, n)
	if err := r.full(b); err != nil {
		return h, err
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, fmt.Errorf("read a header: %w", err)
	}
	return h, h.check(kind, first)
}
