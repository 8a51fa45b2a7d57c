package desired

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"time"

	"mvm"
)

// Why a signed state is refused; each error of Verify wraps one, beside those of a
// malformed envelope or document, which are KindInvalid.
var (
	ErrUnsigned   = errors.New("it is not signed")
	ErrUnknownKey = errors.New("its key is not trusted")
	ErrAltered    = errors.New("its signature does not fit")
	ErrOtherNode  = errors.New("it is for another node")
	ErrNotYet     = errors.New("it is issued in the future")
	ErrExpired    = errors.New("it has expired")
	ErrReplay     = errors.New("it is not newer than the one accepted last")
)

// ClockSkew is how far ahead of this host's clock the signer's may be.
const ClockSkew = 5 * time.Minute

// keyIDForm is a key id.
var keyIDForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// KeyID names a public key: the first 16 bytes of its SHA-256, in hex.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:16])
}

// Accepted is what a host remembers of the signed state that it accepted last.
type Accepted struct {
	NodeID    string    `json:"node_id"`
	Sequence  int64     `json:"sequence"`
	Digest    string    `json:"digest"` // of all that was signed
	KeyID     string    `json:"key_id"`
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// Repeated: it is the very state that was accepted last.
	Repeated bool `json:"-"`
}

// Verifier checks signed states against the keys that a host trusts.
type Verifier struct {
	Keys []ed25519.PublicKey
}

// Verify checks an envelope in full and returns its document and what to remember
// before acting on it: its signature, by a trusted key; its node, which must be
// nodeID; that it is issued, by now and at most ClockSkew, and not expired; its
// sequence number, which must be above that of last; and then the document. The same
// state again, with the number of last and nothing else in it, is taken once more
// (Repeated), so that a push whose answer was lost can be sent again. last is the zero
// Accepted where none was.
//
// Refusals are KindPolicy and wrap one of the errors above. Expiry bounds the time
// in which a state can be accepted; one that was accepted stays in force.
func (v Verifier) Verify(envelope []byte, nodeID string, last Accepted, now time.Time) (Document, Accepted, error) {
	if !IsSigned(envelope) && wellFormed("signed desired state", MaxEnvelopeBytes, envelope) == nil {
		return Document{}, Accepted{}, refuse(ErrUnsigned, "").WithFix("sign it with `mvm desired sign`")
	}
	e, payload, err := DecodeEnvelope(envelope)
	if err != nil {
		return Document{}, Accepted{}, err
	}
	got, err := v.signed(e, payload)
	if err != nil {
		return Document{}, Accepted{}, err
	}
	if err := got.current(nodeID, now); err != nil {
		return Document{}, Accepted{}, err
	}
	if got.Repeated, err = got.follows(last); err != nil {
		return Document{}, Accepted{}, err
	}
	doc, err := Decode(payload)
	if err == nil && doc.NodeID != e.NodeID {
		err = refuse(ErrOtherNode, ": the document is for %q, the signature for %q", doc.NodeID, e.NodeID)
	}
	if err != nil {
		return Document{}, Accepted{}, err
	}
	return doc, got, nil
}

// refuse makes a refusal of the cause, with what is known of it.
func refuse(cause error, format string, args ...any) *mvm.Error {
	return mvm.Errorf(mvm.KindPolicy, "desired state refused: %w%s", cause, fmt.Sprintf(format, args...))
}

// signed checks the signature.
func (v Verifier) signed(e Envelope, payload []byte) (Accepted, error) {
	message := e.Signable(payload)
	sig, err := strictBase64(e.Signature)
	if err != nil {
		return Accepted{}, refuse(ErrAltered, "")
	}
	for _, k := range v.Keys {
		if len(k) != ed25519.PublicKeySize || KeyID(k) != e.KeyID {
			continue
		}
		if !ed25519.Verify(k, message, sig) {
			return Accepted{}, refuse(ErrAltered, ": key %s did not sign this content", e.KeyID).WithFix("sign it again, and do not edit the signed file")
		}
		return Accepted{NodeID: e.NodeID, Sequence: e.Sequence, Digest: digest(message), KeyID: e.KeyID,
			IssuedAt: e.IssuedAt.UTC(), ExpiresAt: e.ExpiresAt.UTC()}, nil
	}
	return Accepted{}, refuse(ErrUnknownKey, ": key %s is none of the %d trusted ones", e.KeyID, len(v.Keys)).
		WithFix("copy the signer's .pub file to the folder of trusted keys")
}

// current checks that the state is for this node and this time.
func (a Accepted) current(nodeID string, now time.Time) error {
	switch {
	case a.NodeID != nodeID:
		return refuse(ErrOtherNode, ": %q, and this is %q", a.NodeID, nodeID)
	case a.IssuedAt.After(now.Add(ClockSkew)):
		return refuse(ErrNotYet, ", at %s, and it is %s here", stamp(a.IssuedAt), stamp(now)).WithFix("correct the clocks of the signer's machine and the host")
	case !now.Before(a.ExpiresAt):
		return refuse(ErrExpired, ", at %s, and it is %s here", stamp(a.ExpiresAt), stamp(now)).WithFix("sign it again with a later expiry")
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// follows checks that the state comes after the last one, or is the same.
func (a Accepted) follows(last Accepted) (repeated bool, err error) {
	switch {
	case last.NodeID != a.NodeID || a.Sequence > last.Sequence:
		return false, nil
	case a.Sequence == last.Sequence && a.Digest == last.Digest:
		return true, nil
	case a.Sequence == last.Sequence:
		return false, refuse(ErrReplay, ": another state with sequence %d was accepted", last.Sequence).WithFix("sign it with a higher sequence number")
	}
	return false, refuse(ErrReplay, ": its sequence is %d, that one's is %d", a.Sequence, last.Sequence).WithFix("sign it with a higher sequence number")
}
