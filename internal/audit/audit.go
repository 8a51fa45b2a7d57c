// Package audit is the arithmetic of the audit log's chain: what an entry's hash
// covers, and the seal of the log's two ends. It keeps nothing and does no I/O.
//
// The hash of an entry is SHA-256 of a name ("mvm audit entry 1"), the hash of the
// entry before it, and every field of the entry, each with its length. So whoever
// changes, takes out, adds or moves an entry must make every later hash anew, and
// with them the last one. The last one, and the one before the first that is kept,
// are in the seal: HMAC-SHA-256 with a key that is not in the state file.
package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"mvm"
)

// Mark names an entry of the log: its number and its hash. The zero Mark is the
// beginning of a log.
type Mark struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash,omitempty"` // 64 hex digits; empty: before the first entry
}

// String is the mark as people note it down, and ParseMark reads it.
func (m Mark) String() string { return fmt.Sprintf("%d:%s", m.Seq, m.Hash) }

// ParseMark reads what String wrote. KindInvalid when it is something else.
func ParseMark(s string) (m Mark, err error) {
	bad := mvm.Errorf(mvm.KindInvalid, "%.100q is not NUMBER:HASH", s).WithFix("take it from the output of `mvm agent audit verify`")
	if _, err := fmt.Sscanf(s, "%d:%s", &m.Seq, &m.Hash); err != nil {
		return Mark{}, bad
	}
	if b, err := hex.DecodeString(m.Hash); err != nil || len(b) != sha256.Size || m.Seq == 0 || m.String() != s {
		return Mark{}, bad
	}
	return m, nil
}

// Hash returns the hash of the entry after the one with the hash prev. The entry's own
// Hash is not part of it.
func Hash(prev string, e mvm.Event) string {
	h := sha256.New()
	var n [8]byte
	number := func(v uint64) {
		binary.BigEndian.PutUint64(n[:], v)
		h.Write(n[:])
	}
	text := func(s string) {
		number(uint64(len(s)))
		h.Write([]byte(s))
	}
	text("mvm audit entry 1")
	text(prev)
	number(e.Seq)
	number(uint64(e.Time.Unix()))
	number(uint64(e.Time.Nanosecond()))
	for _, s := range []string{string(e.Action), e.Tenant, e.Pool, e.Instance, e.By.String(), e.Why, e.Detail, e.Request} {
		text(s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Ends are the two ends of a log: Anchor is the entry before the first one that is
// kept, Head the last one. They are equal when there is none.
type Ends struct {
	Anchor Mark   `json:"anchor"`
	Head   Mark   `json:"head"`
	Seal   string `json:"seal,omitempty"` // see Sign
}

// Sign seals the ends with the key. Without a key they have no seal.
func (e *Ends) Sign(key []byte) { e.Seal = e.seal(key) }

// Sealed reports whether the ends have the seal of the key. Without a key there is
// nothing to compare, and they count as sealed.
func (e Ends) Sealed(key []byte) bool {
	return len(key) == 0 || hmac.Equal([]byte(e.Seal), []byte(e.seal(key)))
}

func (e Ends) seal(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "mvm audit ends 1\x00%s\x00%s", e.Anchor, e.Head)
	return hex.EncodeToString(m.Sum(nil))
}
