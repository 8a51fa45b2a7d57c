package secrets_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/secrets"
	"mvm/internal/tenantkey"
)

// TestTenantKeyOpensForItsTenant: what is stored of a tenant's key gives the same key again,
// for that tenant and master key alone, and any changed bit is noticed.
func TestTenantKeyOpensForItsTenant(t *testing.T) {
	k, other := newKey(t, 1), newKey(t, 2)
	made, sealed, err := k.NewTenantKey("acme")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := k.OpenTenantKey("acme", sealed)
	if err != nil || opened.ID() != made.ID() {
		t.Fatalf("opened %v, %v; want %v", opened, err, made)
	}
	if again, _, err := k.NewTenantKey("acme"); err != nil || again.ID() == made.ID() {
		t.Errorf("two new keys of a tenant are the same (%v)", err)
	}
	for name, open := range map[string]func() (*tenantkey.Key, error){
		"another tenant": func() (*tenantkey.Key, error) { return k.OpenTenantKey("acm", sealed) },
		"another master": func() (*tenantkey.Key, error) { return other.OpenTenantKey("acme", sealed) },
		"nothing":        func() (*tenantkey.Key, error) { return k.OpenTenantKey("acme", nil) },
		"a part":         func() (*tenantkey.Key, error) { return k.OpenTenantKey("acme", sealed[:len(sealed)-1]) },
	} {
		if _, err := open(); !mvm.IsKind(err, mvm.KindInternal) {
			t.Errorf("%s: %v, want an internal error", name, err)
		}
	}
	for bit := range len(sealed) * 8 {
		b := bytes.Clone(sealed)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := k.OpenTenantKey("acme", b); err == nil {
			t.Errorf("bit %d can be changed", bit)
		}
	}
}

// TestTenantKeyWraps: a wrapped key opens with the same tenant's key and the same additional
// bytes alone, and wraps of one key differ.
func TestTenantKeyWraps(t *testing.T) {
	k := newKey(t, 1)
	a, _, err1 := k.NewTenantKey("acme")
	b, _, err2 := k.NewTenantKey("acme")
	key, ad := bytes.Repeat([]byte{7}, secrets.KeySize), []byte("seg-1")
	wrapped, err3 := a.Wrap(key, ad)
	again, err4 := a.Wrap(key, ad)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(wrapped) != tenantkey.WrappedSize || bytes.Equal(wrapped, again) || bytes.Contains(wrapped, key[:8]) {
		t.Errorf("wrapped into %x and %x", wrapped, again)
	}
	if got, ok := a.Unwrap(wrapped, ad); !ok || !bytes.Equal(got, key) {
		t.Errorf("unwrapped %x, %v", got, ok)
	}
	for name, ok := range map[string]bool{
		"another key":         second(b.Unwrap(wrapped, ad)),
		"other bytes":         second(a.Unwrap(wrapped, []byte("seg-2"))),
		"a part":              second(a.Unwrap(wrapped[1:], ad)),
		"a changed salt":      second(a.Unwrap(append([]byte{wrapped[0] ^ 1}, wrapped[1:]...), ad)),
		"nothing was wrapped": second(a.Unwrap(nil, ad)),
	} {
		if ok {
			t.Errorf("%s: it opens", name)
		}
	}
	if _, err := a.Wrap(key[1:], ad); err == nil {
		t.Error("a short key was wrapped")
	}
	if s := fmt.Sprintf("%v %+v %#v %s %x", a, a, a, a, a); strings.Count(s, "(key of a tenant ") != 5 {
		t.Errorf("prints as %s", s)
	}
}

func second(_ []byte, ok bool) bool { return ok }
