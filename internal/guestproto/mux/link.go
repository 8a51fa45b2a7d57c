package mux

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// The bytes of the link. Whatever follows esc is a mark; a literal esc in data is
// sent as esc, markLiteral. So a control record is found wherever the stream
// before it was cut, and no data can look like one.
const (
	esc         = 0xC5
	markLiteral = 0x00
	markControl = 0x01

	version = '1'

	nonceLen = 16
	headLen  = 2 + 2*nonceLen // kind, version, nonce in hex: never contains esc
	chunk    = 32 << 10       // raw bytes per read, and plain bytes per write
)

// kind is what a control record says.
type kind byte

const (
	kindHello  kind = 'H' // guest: a new end of the link is here, its nonce is zero
	kindOpen   kind = 'O' // host: a session with this nonce begins after this record
	kindAccept kind = 'A' // guest: the session with this nonce begins after this record
	kindGreet  kind = 'G' // host, before or between sessions: a greeting, see Greet
	kindAnswer kind = 'g' // guest: the answer to the greeting with this nonce
)

// bodyLen is the number of bytes that follow the nonce, in hex, in a record of the kind.
func (k kind) bodyLen() int {
	switch k {
	case kindGreet:
		return GreetingLen
	case kindAnswer:
		return AnswerLen
	}
	return 0
}

// maxControl is the longest record.
const maxControl = headLen + 2*GreetingLen

type nonce [nonceLen]byte

type control struct {
	kind  kind
	nonce nonce
	body  []byte
}

// stream is the raw byte stream below a link: a net.Conn or a Port.
type stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// link sends and receives data and control records over a raw stream that may
// lose its tail at any byte. One goroutine reads at a time; writers take turns.
type link struct {
	raw stream

	buf     [chunk]byte // raw bytes read; buf[r:w] are not decoded yet
	r, w    int
	partial []byte // of a control record, nil outside of one
	inCtl   bool

	wmu sync.Mutex
	out []byte
}

func newLink(raw stream) *link {
	return &link{raw: raw, partial: make([]byte, 0, maxControl), out: make([]byte, 0, 2*chunk)}
}

var errMark = errors.New("mux: a byte that no end of the link sends")

// read decodes into p until there is data, a control record, or an error. With n
// above 0 there is data; with ctl not nil a record follows all data before it.
func (l *link) read(p []byte) (n int, ctl *control, err error) {
	for {
		n, ctl, err = l.decode(p)
		if n > 0 || len(p) == 0 || ctl != nil || err != nil {
			return n, ctl, err
		}
		if err := l.fill(); err != nil {
			return 0, nil, err
		}
	}
}

// fill reads more raw bytes; up to one undecoded byte (an esc) is kept.
func (l *link) fill() error {
	copy(l.buf[:], l.buf[l.r:l.w])
	l.w -= l.r
	l.r = 0
	n, err := l.raw.Read(l.buf[l.w:])
	l.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// decode takes what it can from the raw bytes at hand.
func (l *link) decode(p []byte) (n int, ctl *control, err error) {
	for l.r < l.w && n < len(p) {
		rest := l.buf[l.r:l.w]
		if rest[0] == esc {
			if len(rest) == 1 {
				return n, nil, nil
			}
			if n > 0 && rest[1] != markLiteral {
				return n, nil, nil // the data first
			}
			lit, err := l.mark(rest[1])
			if err != nil {
				return n, nil, err
			}
			if lit {
				p[n] = esc
				n++
			}
			continue
		}
		plain := rest
		if i := bytes.IndexByte(rest, esc); i >= 0 {
			plain = rest[:i]
		}
		if l.inCtl {
			if ctl := l.collect(plain); ctl != nil {
				return n, ctl, nil
			}
			continue
		}
		c := copy(p[n:], plain)
		n += c
		l.r += c
	}
	return n, nil, nil
}

// mark handles esc and the byte after it, and reports whether it is a literal esc.
func (l *link) mark(b byte) (literal bool, err error) {
	wasCtl := l.inCtl
	l.inCtl = false
	switch b {
	case esc: // the stream was cut after the first one
		l.r++
		return false, nil
	case markControl:
		l.r += 2
		l.inCtl, l.partial = true, l.partial[:0]
		return false, nil
	case markLiteral:
		l.r += 2
		if wasCtl { // a control record that was cut, then data: not from a right end
			return false, errMark
		}
		return true, nil
	}
	l.r += 2
	return false, errMark
}

// collect adds to a control record and returns it when it is complete. A record
// that makes no sense is dropped.
func (l *link) collect(plain []byte) *control {
	for {
		want := 1
		if len(l.partial) > 0 {
			want = headLen + 2*kind(l.partial[0]).bodyLen()
		}
		take := min(want-len(l.partial), len(plain))
		l.partial = append(l.partial, plain[:take]...)
		plain = plain[take:]
		l.r += take
		if len(l.partial) < want {
			return nil
		}
		if want > 1 {
			break
		}
	}
	l.inCtl = false
	if l.partial[1] != version {
		return nil
	}
	c := control{kind: kind(l.partial[0])}
	if _, err := hex.Decode(c.nonce[:], l.partial[2:headLen]); err != nil {
		return nil
	}
	c.body = make([]byte, c.kind.bodyLen())
	if _, err := hex.Decode(c.body, l.partial[headLen:]); err != nil {
		return nil
	}
	return &c
}

// next skips everything up to the next control record.
func (l *link) next() (control, error) {
	var skip [4096]byte
	for {
		_, ctl, err := l.read(skip[:])
		if ctl != nil {
			return *ctl, nil
		}
		if err != nil && !errors.Is(err, errMark) {
			return control{}, err
		}
	}
}

// write sends data. After an error the other end has a part of it; only a control
// record may follow then.
func (l *link) write(p []byte) (int, error) {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	total := 0
	for len(p) > 0 {
		part := p[:min(len(p), chunk)]
		l.out = stuff(l.out[:0], part)
		if _, err := l.raw.Write(l.out); err != nil {
			return total, err
		}
		total += len(part)
		p = p[len(part):]
	}
	return total, nil
}

// stuff appends p to dst with every esc marked as literal.
func stuff(dst, p []byte) []byte {
	for {
		i := bytes.IndexByte(p, esc)
		if i < 0 {
			return append(dst, p...)
		}
		dst = append(append(dst, p[:i]...), esc, markLiteral)
		p = p[i+1:]
	}
}

// writeControl sends a control record.
func (l *link) writeControl(c control) error {
	rec := make([]byte, 2, 2+maxControl)
	rec[0], rec[1] = esc, markControl
	rec = append(rec, byte(c.kind), version)
	rec = hex.AppendEncode(rec, c.nonce[:])
	rec = hex.AppendEncode(rec, c.body)
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if _, err := l.raw.Write(rec); err != nil {
		return fmt.Errorf("write the %q record: %w", string(rune(c.kind)), err)
	}
	return nil
}

// interrupt makes reads and writes under way fail; clear takes that back.
func (l *link) interrupt() {
	past := time.Unix(1, 0)
	l.raw.SetReadDeadline(past)
	l.raw.SetWriteDeadline(past)
}

func (l *link) clear() {
	l.raw.SetReadDeadline(time.Time{})
	l.raw.SetWriteDeadline(time.Time{})
}
