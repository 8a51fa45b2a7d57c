package guestproto

import (
	"encoding/binary"

	"mvm"
)

// ResumeLen and ResumedLen are the sizes of a Resume and its answer, in bytes. They
// are binary and fixed, because they are what a restored guest does first.
const (
	ResumeLen  = 80
	ResumedLen = 16
)

// Resume tells a restored guest what it must know before traffic is let in. It is
// short for a Configure that changes nothing but clock and entropy: where Digest is
// that of the Configure in force, nothing else is to be done.
type Resume struct {
	// UnixNanos is the host's clock when it sent this.
	UnixNanos int64
	// AdvanceNanos is the time for which the vCPUs stood still. Stepping the clock by
	// it depends on no delay of this message.
	AdvanceNanos int64
	Entropy      [32]byte
	Digest       [32]byte // of the Configure that the host wants in force
}

// Resumed answers a Resume.
type Resumed struct {
	// Clean: clock and entropy are right. InForce: the Digest is that of the Configure in force.
	Clean, InForce bool
	// UnixNanos is the guest's clock when it wrote the answer.
	UnixNanos int64
}

// Encode returns the ResumeLen bytes of r.
func (r Resume) Encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, ResumeLen), uint64(r.UnixNanos))
	b = binary.BigEndian.AppendUint64(b, uint64(r.AdvanceNanos))
	b = append(b, r.Entropy[:]...)
	return append(b, r.Digest[:]...)
}

// DecodeResume reads a Resume; KindInvalid when b has another size.
func DecodeResume(b []byte) (r Resume, err error) {
	if len(b) != ResumeLen {
		return r, mvm.Errorf(mvm.KindInvalid, "decode Resume: %d bytes, not %d", len(b), ResumeLen)
	}
	r.UnixNanos, r.AdvanceNanos = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
	copy(r.Entropy[:], b[16:])
	copy(r.Digest[:], b[48:])
	return r, nil
}

// Encode returns the ResumedLen bytes of r.
func (r Resumed) Encode() []byte {
	b := make([]byte, 8, ResumedLen)
	if r.Clean {
		b[7] |= 1
	}
	if r.InForce {
		b[7] |= 2
	}
	return binary.BigEndian.AppendUint64(b, uint64(r.UnixNanos))
}

// DecodeResumed reads a Resumed; KindInvalid when b has another size.
func DecodeResumed(b []byte) (r Resumed, err error) {
	if len(b) != ResumedLen {
		return r, mvm.Errorf(mvm.KindInvalid, "decode Resumed: %d bytes, not %d", len(b), ResumedLen)
	}
	return Resumed{Clean: b[7]&1 != 0, InForce: b[7]&2 != 0, UnixNanos: int64(binary.BigEndian.Uint64(b[8:]))}, nil
}
