package workload

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"mvm/internal/guestproto"
)

// Bounds of the journal: what is kept of each service, and of a line.
const (
	maxRingBytes = 1 << 20
	MaxLine      = guestproto.MaxLogText
	lineOverhead = 64 // counted for each line, so that empty ones are bounded too
)

// Journal keeps the last lines of each service in memory. It is safe for
// concurrent use.
type Journal struct {
	mu    sync.Mutex
	seq   uint64
	rings map[string]*ring
	grown chan struct{} // closed and replaced at every line
}

type ring struct {
	lines []guestproto.LogLine
	bytes int
}

// NewJournal returns an empty journal.
func NewJournal() *Journal {
	return &Journal{rings: map[string]*ring{}, grown: make(chan struct{})}
}

// Append adds a line, and drops the service's oldest ones past the bound.
func (j *Journal) Append(service, stream, text string) {
	if len(text) > MaxLine {
		text = text[:MaxLine]
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.rings[service]
	if r == nil {
		r = &ring{}
		j.rings[service] = r
	}
	j.seq++
	r.lines = append(r.lines, guestproto.LogLine{Seq: j.seq, Time: time.Now().UTC(), Service: service, Stream: stream, Text: text})
	r.bytes += len(text) + lineOverhead
	drop := 0
	for r.bytes > maxRingBytes {
		r.bytes -= len(r.lines[drop].Text) + lineOverhead
		r.lines[drop] = guestproto.LogLine{}
		drop++
	}
	r.lines = r.lines[drop:]
	close(j.grown)
	j.grown = make(chan struct{})
}

// After returns up to limit lines with a sequence number above seq, oldest first,
// of the service ("" for all), the number to go on from, and a channel that is
// closed when there may be more.
func (j *Journal) After(service string, seq uint64, limit int) (lines []guestproto.LogLine, next uint64, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(lines) < limit {
		l := j.oldest(service, seq)
		if l == nil {
			break
		}
		lines = append(lines, *l)
		seq = l.Seq
	}
	return lines, seq, j.grown
}

// oldest finds the first line above seq.
func (j *Journal) oldest(service string, seq uint64) *guestproto.LogLine {
	var found *guestproto.LogLine
	for name, r := range j.rings {
		if service != "" && service != name {
			continue
		}
		lo, hi := 0, len(r.lines)
		for lo < hi {
			if mid := (lo + hi) / 2; r.lines[mid].Seq > seq {
				hi = mid
			} else {
				lo = mid + 1
			}
		}
		if lo < len(r.lines) && (found == nil || r.lines[lo].Seq < found.Seq) {
			found = &r.lines[lo]
		}
	}
	return found
}

// Tail returns the sequence number after which the service ("" for all) has its
// last n lines; n 0 means all that is kept.
func (j *Journal) Tail(service string, n int) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n <= 0 {
		return 0
	}
	var seqs []uint64
	for name, r := range j.rings {
		if service == "" || service == name {
			for _, e := range r.lines[max(0, len(r.lines)-n):] {
				seqs = append(seqs, e.Seq)
			}
		}
	}
	if len(seqs) == 0 {
		return 0
	}
	slices.Sort(seqs)
	return seqs[max(0, len(seqs)-n)] - 1
}

// Resume returns the number to go on from for somebody who has the lines up to seq. A
// number that was not reached yet is of a journal before this one: everything is new then.
func (j *Journal) Resume(seq uint64) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if seq > j.seq {
		return 0
	}
	return seq
}

// copyLines appends what r gives, line by line, until it ends. Lines longer than
// maxLine are cut into several.
func copyLines(r io.Reader, add func(text string)) error {
	br := bufio.NewReaderSize(r, MaxLine)
	for {
		b, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
		}
		if n := len(b); n > 0 {
			if b[n-1] == '\n' {
				b = b[:n-1]
			}
			add(string(b))
		}
		if err != nil {
			return err
		}
	}
}
