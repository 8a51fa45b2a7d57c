package desired

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"time"

	"mvm"
)

// Envelope is a signed document: the exact bytes of the document, and what is said of
// them, in JSON. Nothing is encoded again to check a signature: what is signed is
// Signable, which has one form for one Envelope.
type Envelope struct {
	Version   int       `json:"mvm_signed" need:"1"`
	KeyID     string    `json:"key_id" need:"1"`
	NodeID    string    `json:"node_id" need:"1"`
	Sequence  int64     `json:"sequence" need:"1"`
	IssuedAt  time.Time `json:"issued_at" need:"1"`  // whole seconds
	ExpiresAt time.Time `json:"expires_at" need:"1"` // whole seconds
	Payload   string    `json:"payload" need:"1"`    // base64 of the document's bytes
	Signature string    `json:"signature" need:"1"`  // base64 of 64 bytes
}

// EnvelopeVersion is the version of the envelopes that this package reads and writes.
const EnvelopeVersion = 1

// Bounds of an envelope.
const (
	MaxEnvelopeBytes = MaxBytes/3*4 + 4096
	MaxSequence      = 1<<53 - 1 // what every JSON reader takes for an integer
	// MaxLifetime is the longest time between issue and expiry.
	MaxLifetime = 366 * 24 * time.Hour
)

// domain begins everything that is signed, so that no signature of the key for another
// purpose is one of a desired state, and the other way round.
const domain = "mvm signed desired state 1\x00"

// Signable returns the bytes that are signed: the domain; key id, node id, sequence,
// issue and expiry; and the payload. Each text and the payload come after their length,
// numbers and lengths are 8 bytes big-endian, times are Unix seconds.
func (e Envelope) Signable(payload []byte) []byte {
	b := []byte(domain)
	text := func(s []byte) {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	text([]byte(e.KeyID))
	text([]byte(e.NodeID))
	for _, n := range []int64{e.Sequence, e.IssuedAt.Unix(), e.ExpiresAt.Unix()} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	text(payload)
	return b
}

// digest names a signed state: two envelopes with the same one say the same.
func digest(signable []byte) string {
	sum := sha256.Sum256(signable)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// IsSigned reports whether the JSON is meant as an Envelope; it checks nothing else.
func IsSigned(data []byte) bool {
	var e struct {
		Version json.RawMessage `json:"mvm_signed"`
	}
	return len(data) <= MaxEnvelopeBytes && json.Unmarshal(data, &e) == nil && e.Version != nil
}

// DecodeEnvelope reads an envelope as strictly as Decode, checks the form of all of
// it, and returns it with its payload. It checks neither signature nor document.
func DecodeEnvelope(data []byte) (Envelope, []byte, error) {
	var e Envelope
	if err := decode("signed desired state", MaxEnvelopeBytes, data, &e); err != nil {
		return Envelope{}, nil, err
	}
	payload, err := e.check()
	if err != nil {
		return Envelope{}, nil, err
	}
	return e, payload, nil
}

func (e Envelope) check() (payload []byte, err error) {
	ps := Problems{}
	if e.Version != EnvelopeVersion {
		ps.add("mvm_signed", "is %d, and this mvm knows version %d", e.Version, EnvelopeVersion)
	}
	if !keyIDForm.MatchString(e.KeyID) {
		ps.add("key_id", "%q is not 32 hex digits", clip(e.KeyID))
	}
	ps.check("node_id", mvm.ValidateNodeID(e.NodeID))
	if e.Sequence < 1 || e.Sequence > MaxSequence {
		ps.add("sequence", "%d is not in 1..%d", e.Sequence, int64(MaxSequence))
	}
	e.checkTimes(&ps)
	if sig, err := strictBase64(e.Signature); err != nil || len(sig) != ed25519.SignatureSize {
		ps.add("signature", "is not base64 of %d bytes", ed25519.SignatureSize)
	}
	if payload, err = strictBase64(e.Payload); err != nil || len(payload) > MaxBytes {
		ps.add("payload", "is not base64 of at most %d bytes", MaxBytes)
	}
	return payload, ps.err("signed desired state")
}

func (e Envelope) checkTimes(ps *Problems) {
	for i, t := range []time.Time{e.IssuedAt, e.ExpiresAt} {
		if t.Nanosecond() != 0 || t.Year() < 2000 || t.Year() > 9000 {
			ps.add([]string{"issued_at", "expires_at"}[i], "%s is not a time in whole seconds", t.Format(time.RFC3339Nano))
		}
	}
	if life := e.ExpiresAt.Sub(e.IssuedAt); life <= 0 || life > MaxLifetime {
		ps.add("expires_at", "is not after issued_at by at most %d days", MaxLifetime/(24*time.Hour))
	}
}

// strictBase64 reads base64 that is written in the one right way.
func strictBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && base64.StdEncoding.EncodeToString(b) != s {
		err = base64.CorruptInputError(0) // it has newlines
	}
	return b, err
}

// Claims are what a signer says of a document.
type Claims struct {
	NodeID    string // the host that it is for
	Sequence  int64
	IssuedAt  time.Time // cut to whole seconds
	ExpiresAt time.Time // cut to whole seconds
}

// Sign makes the envelope of a document's bytes, as indented JSON that ends with a
// newline. The document must be one that Decode takes, for the host of the claims.
func Sign(key ed25519.PrivateKey, payload []byte, c Claims) ([]byte, error) {
	doc, err := Decode(payload)
	if err != nil {
		return nil, err
	}
	if doc.NodeID != c.NodeID {
		return nil, mvm.Errorf(mvm.KindInvalid, "sign desired state: it is for node %q, not %q", doc.NodeID, clip(c.NodeID))
	}
	e := Envelope{Version: EnvelopeVersion, KeyID: KeyID(key.Public().(ed25519.PublicKey)), NodeID: c.NodeID, Sequence: c.Sequence,
		IssuedAt: c.IssuedAt.UTC().Truncate(time.Second), ExpiresAt: c.ExpiresAt.UTC().Truncate(time.Second),
		Payload: base64.StdEncoding.EncodeToString(payload)}
	e.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, e.Signable(payload)))
	if _, err := e.check(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "encode signed desired state: %w", err)
	}
	return append(bytes.TrimSpace(b), '\n'), nil
}
