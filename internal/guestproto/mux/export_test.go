package mux

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// Stuff is what the link sends for data.
func Stuff(p []byte) []byte { return stuff(nil, p) }

// Decode reads a raw stream to its end, in reads of at most step bytes, and returns
// the data in it and how many control records there were.
func Decode(raw []byte, step int) (data []byte, records int, err error) {
	l := newLink(&fixed{Reader: bytes.NewReader(raw), step: step})
	buf := make([]byte, 97)
	for {
		n, ctl, err := l.read(buf)
		data = append(data, buf[:n]...)
		if ctl != nil {
			records++
		}
		if errors.Is(err, io.EOF) {
			return data, records, nil
		}
		if err != nil {
			return data, records, err
		}
	}
}

type fixed struct {
	io.Reader
	step int
}

func (f *fixed) Read(p []byte) (int, error)         { return f.Reader.Read(p[:min(len(p), f.step)]) }
func (f *fixed) Write(p []byte) (int, error)        { return len(p), nil }
func (f *fixed) Close() error                       { return nil }
func (f *fixed) SetReadDeadline(_ time.Time) error  { return nil }
func (f *fixed) SetWriteDeadline(_ time.Time) error { return nil }
