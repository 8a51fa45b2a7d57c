package desired_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/desired"
)

var noon = time.Unix(1_800_000_000, 0).UTC()

// signer returns a key made of the seed.
func signer(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// claims are good ones for the host of formats.
func claims(change ...func(*desired.Claims)) desired.Claims {
	c := desired.Claims{NodeID: "node-1", Sequence: 7, IssuedAt: noon, ExpiresAt: noon.Add(time.Hour)}
	for _, f := range change {
		f(&c)
	}
	return c
}

func sign(t testing.TB, c desired.Claims) []byte {
	t.Helper()
	b, err := desired.Sign(signer(1), []byte(formats), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edit changes one field of an envelope and leaves its signature.
func edit(t testing.TB, envelope []byte, field string, value any) []byte {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(envelope))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	if _, ok := m[field]; !ok {
		t.Fatalf("no field %s", field)
	}
	m[field] = value
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func trusted() desired.Verifier {
	return desired.Verifier{Keys: []ed25519.PublicKey{public(signer(2)), public(signer(1))}}
}

func TestASignedStateIsAccepted(t *testing.T) {
	doc, got, err := trusted().Verify(sign(t, claims()), "node-1", desired.Accepted{}, noon.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(decode(t, formats), doc, comparePrefix()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := desired.Accepted{NodeID: "node-1", Sequence: 7, KeyID: desired.KeyID(public(signer(1))),
		IssuedAt: noon, ExpiresAt: noon.Add(time.Hour), Digest: got.Digest}
	if diff := cmp.Diff(want, got); diff != "" || !strings.HasPrefix(got.Digest, "sha256:") {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatesThatAreNotAccepted(t *testing.T) {
	good := sign(t, claims())
	other := strings.Replace(formats, `"running":3`, `"running":4`, 1)
	_, last, err := trusted().Verify(good, "node-1", desired.Accepted{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	newer := last
	newer.Sequence++
	different := last
	different.Digest = "sha256:other"
	stranger, err := desired.Sign(signer(3), []byte(formats), claims())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		envelope []byte
		node     string
		last     desired.Accepted
		now      time.Time
		want     error
	}{
		"unsigned":                {envelope: []byte(formats), want: desired.ErrUnsigned},
		"an unknown key":          {envelope: stranger, want: desired.ErrUnknownKey},
		"another key's name":      {envelope: edit(t, stranger, "key_id", desired.KeyID(public(signer(1)))), want: desired.ErrAltered},
		"altered document":        {envelope: edit(t, good, "payload", base64.StdEncoding.EncodeToString([]byte(other))), want: desired.ErrAltered},
		"a space more":            {envelope: edit(t, good, "payload", base64.StdEncoding.EncodeToString([]byte(formats+" "))), want: desired.ErrAltered},
		"altered node":            {envelope: edit(t, good, "node_id", "node-2"), node: "node-2", want: desired.ErrAltered},
		"altered sequence":        {envelope: edit(t, good, "sequence", 8), want: desired.ErrAltered},
		"altered issue":           {envelope: edit(t, good, "issued_at", noon.Add(-time.Second)), want: desired.ErrAltered},
		"altered expiry":          {envelope: edit(t, good, "expires_at", noon.Add(2*time.Hour)), want: desired.ErrAltered},
		"altered signature":       {envelope: edit(t, good, "signature", base64.StdEncoding.EncodeToString(make([]byte, 64))), want: desired.ErrAltered},
		"another node's":          {envelope: good, node: "node-2", want: desired.ErrOtherNode},
		"expired":                 {envelope: good, now: noon.Add(time.Hour), want: desired.ErrExpired},
		"from the future":         {envelope: good, now: noon.Add(-desired.ClockSkew - time.Second), want: desired.ErrNotYet},
		"older than the last":     {envelope: good, last: newer, want: desired.ErrReplay},
		"another with its number": {envelope: good, last: different, want: desired.ErrReplay},
	} {
		t.Run(name, func(t *testing.T) {
			if c.node == "" {
				c.node = "node-1"
			}
			if c.now.IsZero() {
				c.now = noon
			}
			_, got, err := trusted().Verify(c.envelope, c.node, c.last, c.now)
			if !errors.Is(err, c.want) || !mvm.IsKind(err, mvm.KindPolicy) || got != (desired.Accepted{}) {
				t.Errorf("got %+v, %v; want a refusal because %v", got, err, c.want)
			}
		})
	}
}

func TestEveryBitOfAnEnvelopeCounts(t *testing.T) {
	e, payload, err := desired.DecodeEnvelope(sign(t, claims()))
	if err != nil {
		t.Fatal(err)
	}
	sig, _ := base64.StdEncoding.DecodeString(e.Signature)
	message := e.Signable(payload)
	if !ed25519.Verify(public(signer(1)), message, sig) {
		t.Fatal("the signature is not over Signable")
	}
	for i := range message {
		m := slices.Clone(message)
		m[i] ^= 1
		if ed25519.Verify(public(signer(1)), m, sig) {
			t.Fatalf("byte %d may change", i)
		}
	}
	if !bytes.HasPrefix(message, []byte("mvm signed desired state 1\x00")) {
		t.Errorf("what is signed begins with %q", message[:30])
	}
	for name, other := range map[string]desired.Envelope{
		"where a text ends": {KeyID: e.KeyID + e.NodeID[:1], NodeID: e.NodeID[1:], Sequence: e.Sequence, IssuedAt: e.IssuedAt, ExpiresAt: e.ExpiresAt},
		"which time is it":  {KeyID: e.KeyID, NodeID: e.NodeID, Sequence: e.Sequence, IssuedAt: e.ExpiresAt, ExpiresAt: e.IssuedAt},
	} {
		if bytes.Equal(other.Signable(payload), message) {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestTheSameStateAgainIsTakenOnceMore(t *testing.T) {
	_, last, err := trusted().Verify(sign(t, claims()), "node-1", desired.Accepted{}, noon)
	if err != nil || last.Repeated {
		t.Fatalf("got %+v, %v", last, err)
	}
	_, again, err := trusted().Verify(sign(t, claims()), "node-1", last, noon)
	if err != nil || !again.Repeated {
		t.Errorf("got %+v, %v; want the same again, repeated", again, err)
	}
	if _, _, err := trusted().Verify(sign(t, claims()), "node-1", last, noon.Add(time.Hour)); !errors.Is(err, desired.ErrExpired) {
		t.Errorf("got %v; also the same must not have expired", err)
	}
	next := sign(t, claims(func(c *desired.Claims) { c.Sequence++ }))
	if _, got, err := trusted().Verify(next, "node-1", last, noon); err != nil || got.Repeated {
		t.Errorf("got %+v, %v of the next", got, err)
	}
	renamed := last
	renamed.NodeID, renamed.Sequence = "node-0", 99
	if _, _, err := trusted().Verify(next, "node-1", renamed, noon); err != nil {
		t.Errorf("got %v: sequences are of one node", err)
	}
}

func TestClaimsThatAreNotSigned(t *testing.T) {
	for name, change := range map[string]func(*desired.Claims){
		"no sequence":      func(c *desired.Claims) { c.Sequence = 0 },
		"a huge sequence":  func(c *desired.Claims) { c.Sequence = 1 << 53 },
		"expired at issue": func(c *desired.Claims) { c.ExpiresAt = c.IssuedAt },
		"never expires":    func(c *desired.Claims) { c.ExpiresAt = c.IssuedAt.Add(desired.MaxLifetime + time.Second) },
		"another node":     func(c *desired.Claims) { c.NodeID = "node-2" },
	} {
		if b, err := desired.Sign(signer(1), []byte(formats), claims(change)); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%s: got %s, %v", name, b, err)
		}
	}
	if _, err := desired.Sign(signer(1), []byte("{}"), claims()); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("got %v of a document that is none", err)
	}
}

func TestEnvelopesThatAreMalformed(t *testing.T) {
	good := sign(t, claims())
	for name, c := range map[string]struct {
		envelope []byte
		want     string
	}{
		"another version":    {edit(t, good, "mvm_signed", 2), "mvm_signed: is 2"},
		"a bad key id":       {edit(t, good, "key_id", "../x"), `key_id: "../x"`},
		"a bad node":         {edit(t, good, "node_id", "a/b"), "node_id: node id"},
		"sequence 0":         {edit(t, good, "sequence", 0), "sequence: 0 is not in"},
		"sequence too high":  {edit(t, good, "sequence", 1<<53), "sequence: 9007199254740992 is not in"},
		"sequence text":      {edit(t, good, "sequence", "7"), "sequence: is a string"},
		"parts of a second":  {edit(t, good, "issued_at", noon.Add(1)), "issued_at: 2027"},
		"no time":            {edit(t, good, "issued_at", "noon"), `issued_at: "noon" is not valid`},
		"a long life":        {edit(t, good, "expires_at", noon.Add(9000*time.Hour)), "expires_at: is not after issued_at by at most 366 days"},
		"a short signature":  {edit(t, good, "signature", "AAAA"), "signature: is not base64 of 64 bytes"},
		"loose base64":       {edit(t, good, "payload", "AAB="), "payload: is not base64"},
		"base64 with breaks": {edit(t, good, "payload", "AA\nAA"), "payload: is not base64"},
		"something more":     {bytes.Replace(good, []byte("{"), []byte(`{"alg":"none",`), 1), "alg: unknown field"},
		"twice":              {bytes.Replace(good, []byte("{"), []byte(`{"sequence":9,`), 1), "sequence: is given twice"},
		"too large":          {append(bytes.Repeat([]byte(" "), desired.MaxEnvelopeBytes), good...), "more than"},
		"cut off":            {good[:len(good)/2], "unexpected end"},
		"an altered name":    {bytes.Replace(good, []byte("signature"), []byte("Signature"), 1), "Signature: unknown field"},
	} {
		_, _, err := trusted().Verify(c.envelope, "node-1", desired.Accepted{}, noon)
		if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a refusal that says %q", name, err, c.want)
		}
	}
}

// TestASignedDocumentIsCheckedToo: a good signature makes no good document.
func TestASignedDocumentIsCheckedToo(t *testing.T) {
	seal := func(payload string) []byte {
		e, _, err := desired.DecodeEnvelope(sign(t, claims()))
		if err != nil {
			t.Fatal(err)
		}
		e.Payload = base64.StdEncoding.EncodeToString([]byte(payload))
		e.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(signer(1), e.Signable([]byte(payload))))
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	verify := func(payload string) error {
		_, _, err := trusted().Verify(seal(payload), "node-1", desired.Accepted{}, noon)
		return err
	}
	if err := verify(formats); err != nil {
		t.Fatal(err)
	}
	if err := verify(strings.Replace(formats, `"running":3`, `"running":300`, 1)); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("got %v", err)
	}
	if err := verify(strings.Replace(formats, "node-1", "node-2", 1)); !errors.Is(err, desired.ErrOtherNode) {
		t.Errorf("got %v of a document for another node than its envelope", err)
	}
}

func FuzzEnvelope(f *testing.F) {
	good := sign(f, claims())
	for _, seed := range [][]byte{good, []byte(formats), edit(f, good, "sequence", 1), edit(f, good, "payload", ""), []byte("{}"), []byte(`{"mvm_signed":null}`)} {
		f.Add(seed)
	}
	_, last, err := trusted().Verify(good, "node-1", desired.Accepted{}, noon)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, got, err := trusted().Verify(data, "node-1", desired.Accepted{}, noon)
		if err != nil {
			if k := mvm.KindOf(err); k != mvm.KindInvalid && k != mvm.KindPolicy || len(err.Error()) > 32<<10 {
				t.Fatalf("got kind %s and %d bytes: %.200v", k, len(err.Error()), err)
			}
			return
		}
		if got.Digest != last.Digest {
			t.Fatalf("took what nobody signed: %s", data)
		}
		if _, again, err := trusted().Verify(data, "node-1", last, noon); err != nil || !again.Repeated {
			t.Fatal(fmt.Sprint(again, err))
		}
	})
}
