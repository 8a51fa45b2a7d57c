package mvm_test

import (
	"testing"

	"mvm"
)

// An e-mail address is a key, and the address of its instance comes back as it was.
func TestKeysMayBeMailAddresses(t *testing.T) {
	for _, key := range []string{"ann@example.org", "ann+work@mail.example.org", "a.b-c_d@x", "@", "a@b@c", "i-a3f7b2c1@x", "..", "%40", "Ann"} {
		if err := mvm.ValidateKey(key); err != nil {
			t.Errorf("ValidateKey(%q) = %v", key, err)
		}
		want := mvm.Address{Tenant: "acme", Pool: "workers", Key: key}
		if got, err := mvm.ParseAddress("acme/workers@" + key); err != nil || got != want {
			t.Errorf("ParseAddress(acme/workers@%s) = %+v, %v; want %+v", key, got, err, want)
		}
		if got, err := mvm.ParseAddress(want.String()); err != nil || got != want {
			t.Errorf("ParseAddress(%s) = %+v, %v", want, got, err)
		}
	}
	for _, bad := range []string{"acme@ann@example.org", "ann@example.org", "acme/workers/i-a3f7b2c1@ann", "acme/workers@", "acme/workers@a/b", "acme/workers@a b", "acme/wor@kers/i-a3f7b2c1"} {
		if got, err := mvm.ParseAddress(bad); err == nil {
			t.Errorf("ParseAddress(%q) = %+v, want an error", bad, got)
		}
	}
}
