package secrets_test

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/secrets"
)

func TestSealedBytesNameTheirKey(t *testing.T) {
	k, other := newKey(t, 1), newKey(t, 2)
	if k.ID() == other.ID() || k.ID() != newKey(t, 1).ID() || len(k.ID()) != 2*secrets.IDSize {
		t.Errorf("got ids %s and %s", k.ID(), other.ID())
	}
	sealed := seal(t, k, "acme", 3)
	_, err := other.Open("acme", 3, sealed)
	if !mvm.IsKind(err, mvm.KindInternal) || !strings.Contains(err.Error(), "sealed with master key "+k.ID()+", and this is "+other.ID()) {
		t.Errorf("got %v, want both keys named", err)
	}
	// The older form has no id, and all else as the newer one.
	old := append([]byte{1}, sealed[1+secrets.IDSize:]...)
	if got, err := k.Open("acme", 3, old); err != nil || !maps.EqualFunc(got, values(), bytes.Equal) {
		t.Errorf("got %v, %v from the older form", got, err)
	}
	if _, err := other.Open("acme", 3, old); err == nil {
		t.Error("the older form opens with another key")
	}
}
