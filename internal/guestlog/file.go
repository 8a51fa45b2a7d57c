// Package guestlog keeps the logs of guests on the host, where they outlive the guest: a
// Collector follows the log of one VMM's guest into files in the instance's folder, and
// Read reads them.
//
// Lines are JSON, one to a line of the file. The boot that runs, or ran last, has the
// files log.jsonl and log.jsonl.1, the one before it previous.jsonl and previous.jsonl.1,
// each of at most MaxFile bytes, older lines in the .1. With the first line of a new boot
// the files move on. Nothing is synced: a crash of the host may take lines, and cut one,
// which is skipped when it is read.
//
// What a guest says is hostile. Its lines are bounded, its numbers and times order and
// decide nothing on the host, and how much of it is written is limited.
package guestlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

// MaxFile bounds each of the four files.
const MaxFile = 512 << 10

// The files, the newest lines first. The lines of the former boot are in the last two.
const (
	current     = "log.jsonl"
	currentOld  = "log.jsonl.1"
	previous    = "previous.jsonl"
	previousOld = "previous.jsonl.1"
)

// Names are the names of the files in an instance's folder, the newest lines first.
func Names() []string { return []string{current, currentOld, previous, previousOld} }

// Line is a line as it is kept. Seq is the guest's number of it, 0 where it has none. One
// without a service tells of lines that were lost.
type Line struct {
	Boot    int       `json:"boot"`
	Seq     uint64    `json:"seq,omitempty"`
	Time    time.Time `json:"time"`
	Service string    `json:"service,omitempty"`
	Stream  string    `json:"stream"`
	Text    string    `json:"text"`
}

// Bounds of what guests name, and of a line in a file: each byte of it may have become
// the six of an escape.
const (
	maxName    = 128
	maxEncoded = 6*(guestproto.MaxLogText+2*maxName) + 256
)

// line takes a line of the guest's within the bounds.
func line(boot int, l guestproto.LogLine) Line {
	at := l.Time.UTC()
	if y := at.Year(); y < 0 || y > 9999 { // no text has such a time
		at = time.Time{}
	}
	return Line{Boot: boot, Seq: l.Seq, Time: at, Service: clip(l.Service, maxName), Stream: clip(l.Stream, maxName),
		Text: clip(l.Text, guestproto.MaxLogText)}
}

// clip keeps the whole characters among the first n bytes.
func clip(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}

// encode appends the line as it is in a file.
func encode(to []byte, l Line) []byte {
	b := bytes.NewBuffer(to)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false) // which would make six bytes of one
	if e.Encode(l) != nil {
		return to // its time was checked: there is no line that can't be encoded
	}
	return b.Bytes()
}

// writer adds lines of one boot to the files. One at a time writes to a folder.
type writer struct {
	boot int
	open bool // the files are of this boot
	torn bool // the file ends within a line
}

// last finds the last line that is kept of the boot, if there is one, and looks how the
// file ends.
func (w *writer) last(d *sys.Folder) (Line, error) {
	for _, name := range []string{current, currentOld} {
		l, torn, err := lastLine(d, name)
		if err != nil {
			return Line{}, err
		}
		if name == current {
			w.torn = torn
		}
		if l.Boot != 0 {
			w.open = l.Boot == w.boot
			if !w.open {
				l = Line{}
			}
			return l, nil
		}
	}
	return Line{}, nil
}

// lastLine returns the last whole line of a file, a zero one where there is none, and
// whether the file ends in a part of one.
func lastLine(d *sys.Folder, name string) (l Line, torn bool, err error) {
	f, err := d.Open(name, os.O_RDONLY)
	if err != nil {
		return l, false, sys.IfThere(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return l, false, err
	}
	tail := make([]byte, min(size, 2*maxEncoded))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return l, false, err
	}
	torn = len(tail) > 0 && tail[len(tail)-1] != '\n'
	for len(tail) > 0 {
		i := bytes.LastIndexByte(tail[:len(tail)-1], '\n')
		if l, ok := decode(tail[i+1:]); ok {
			return l, torn, nil
		}
		tail = tail[:i+1]
	}
	return Line{}, torn, nil
}

// decode reads a line of a file; false for what is none, or a part of one.
func decode(b []byte) (l Line, ok bool) {
	if json.Unmarshal(b, &l) != nil || l.Boot <= 0 {
		return Line{}, false
	}
	return l, true
}

// add adds encoded lines, fewer bytes than MaxFile. After an error none of them is kept.
func (w *writer) add(d *sys.Folder, lines []byte) error {
	if !w.open {
		if err := turn(d); err != nil {
			return err
		}
		w.open, w.torn = true, false
	}
	size, _, err := d.Size(current)
	if err := sys.IfThere(err); err != nil {
		return err
	}
	if w.torn {
		lines = append([]byte("\n"), lines...)
	}
	if size > 0 && size+int64(len(lines)) > MaxFile {
		if err := d.Rename(current, d, currentOld); err != nil {
			return err
		}
		size = 0
	}
	f, err := d.Append(current)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := f.Write(lines); err != nil { // the disk is full, as a rule
		w.torn = w.torn || n > 0 && f.Truncate(size) != nil
		return err
	}
	w.torn = false
	return nil
}

// turn makes what is kept the former boot's. What is kept of the one before goes.
func turn(d *sys.Folder) error {
	if _, _, err := d.Size(current); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := errors.Join(d.Remove(previous), d.Remove(previousOld)); err != nil {
		return err
	}
	return errors.Join(sys.IfThere(d.Rename(currentOld, d, previousOld)), d.Rename(current, d, previous))
}

// lost is a line that tells of lines that are not there.
func lost(boot int, n uint64, at time.Time, why string) Line {
	text := "1 line was lost"
	if n != 1 {
		text = fmt.Sprintf("%d lines were lost", n)
	}
	return Line{Boot: boot, Time: at, Stream: "mvm", Text: text + why}
}
