package audit

import (
	"fmt"

	"mvm"
)

// maxBreaks bounds what a report tells one by one.
const maxBreaks = 50

// Verifier follows a log from its first entry to its last and notes what is wrong.
// Use New, Entry for each one in the order of the log, then Report.
type Verifier struct {
	ends   Ends
	key    []byte
	expect Mark
	met    bool
	last   Mark
	report mvm.AuditReport
}

// NewVerifier begins with the ends of the log. key may be nil, then the seal is not
// checked. expect, where it is not zero, is an entry that the log must have, or have
// had: somebody noted it down.
func NewVerifier(ends Ends, key []byte, expect Mark) *Verifier {
	v := &Verifier{ends: ends, key: key, expect: expect, last: ends.Anchor}
	v.report.SealChecked = len(key) > 0
	if !ends.Sealed(key) {
		v.broken(ends.Head.Seq, "the seal of the log's ends is not that of this host's key: they were changed, or the key was")
	}
	return v
}

func (v *Verifier) broken(seq uint64, format string, args ...any) {
	v.report.BreakCount++
	if len(v.report.Breaks) < maxBreaks {
		v.report.Breaks = append(v.report.Breaks, mvm.AuditBreak{Seq: seq, What: fmt.Sprintf(format, args...)})
	}
}

// Entry takes the next entry, which is stored as the number.
func (v *Verifier) Entry(stored uint64, e mvm.Event) {
	if v.report.Entries == 0 {
		v.report.First, v.report.Oldest = stored, e.Time
	}
	v.report.Entries++
	want := v.last.Seq + 1
	switch {
	case stored > want && v.report.Entries == 1:
		v.broken(want, "the beginning is missing: entries %d to %d", want, stored-1)
	case stored > want:
		v.broken(want, "entries %d to %d are missing", want, stored-1)
	case stored < want:
		v.broken(stored, "entry %d is from before the log's beginning", stored)
	}
	switch {
	case e.Seq != stored:
		v.broken(stored, "entry %d says that it is entry %d: it was moved", stored, e.Seq)
	case Hash(v.last.Hash, e) != e.Hash && stored == want:
		v.broken(stored, "entry %d, or the one before it, is not what was written", stored)
	}
	if e.Action == mvm.AuditBroken {
		v.broken(stored, "at entry %d the agent found: %s", stored, e.Detail)
	}
	if v.expect.Seq == stored {
		v.met = true
		if v.expect.Hash != e.Hash {
			v.broken(stored, "entry %d is another than the one that was noted down", stored)
		}
	}
	v.last = Mark{Seq: stored, Hash: e.Hash}
}

// Unreadable takes the next entry where it can't be read at all.
func (v *Verifier) Unreadable(stored uint64) {
	v.broken(stored, "entry %d can't be read", stored)
	v.report.Entries++
	v.last = Mark{Seq: stored}
}

// Report returns what was found.
func (v *Verifier) Report() mvm.AuditReport {
	head := v.ends.Head
	switch {
	case v.last.Seq < head.Seq:
		v.broken(v.last.Seq+1, "the end is missing: entries %d to %d", v.last.Seq+1, head.Seq)
	case v.last.Seq > head.Seq:
		v.broken(head.Seq+1, "entries %d to %d were added behind the log's end", head.Seq+1, v.last.Seq)
	case v.last.Hash != head.Hash:
		v.broken(head.Seq, "the last entry, %d, is another than the sealed one", head.Seq)
	}
	if v.expect.Seq > v.last.Seq {
		v.broken(v.expect.Seq, "entry %d, which was noted down, is not there: an older copy was put in place", v.expect.Seq)
	} else if v.expect == v.ends.Anchor && v.expect.Seq > 0 {
		v.met = true
	}
	v.report.Last, v.report.Head = v.last.Seq, v.last.String()
	v.report.Intact = v.report.BreakCount == 0
	v.report.ExpectTrimmed = v.expect.Seq > 0 && !v.met && v.expect.Seq <= v.ends.Anchor.Seq
	return v.report
}
