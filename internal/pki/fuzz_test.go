package pki

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mvm"
)

// FuzzIdentity: what passes is written in the one form, and names are valid.
func FuzzIdentity(f *testing.F) {
	for _, s := range []string{"spiffe://mvm/node/n1", "spiffe://mvm/client/laptop", "spiffe://mvm/tenant/acme/client/web", "spiffe://mvm/tenant//client/", "spiffe://a@b:1/node/x?y#z", "spiffe://mvm/node/%6e", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseIdentity(s)
		if err != nil {
			if !mvm.IsKind(err, mvm.KindInvalid) {
				t.Fatalf("%q: error of kind %s", s, mvm.KindOf(err))
			}
			return
		}
		if id.URI() != s || id.Validate() != nil || (id.Node == "") == (id.Client == "") || id.Node != "" && id.Tenant != "" {
			t.Fatalf("%q became %+v", s, id)
		}
		if id.url().String() != s {
			t.Fatalf("%q is %q in a certificate", s, id.url())
		}
	})
}

func seeds(f *testing.F) (*x509.Certificate, [][]byte) {
	dir := filepath.Join(f.TempDir(), "certs")
	d := At(dir, "mvm")
	if _, err := d.Init(time.Now()); err != nil {
		f.Fatal(err)
	}
	if _, err := d.RotateNode("n1", []string{"a.example", "::1"}, time.Hour, time.Now()); err != nil {
		f.Fatal(err)
	}
	csr, key, err := MakeRequest(Identity{Domain: "mvm", Node: "n1"}, []string{"a.example"})
	if err != nil {
		f.Fatal(err)
	}
	all := [][]byte{csr, key, []byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"), nil}
	for _, name := range []string{caFile, crlFile, nodeFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, b)
	}
	ca, err := d.caCert()
	if err != nil {
		f.Fatal(err)
	}
	return ca, all
}

// FuzzRequest feeds certificate requests: what passes has one identity, a key that is
// taken, and can be asked for again.
func FuzzRequest(f *testing.F) {
	_, all := seeds(f)
	for _, s := range all {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			if !mvm.IsKind(err, mvm.KindInvalid) {
				t.Fatalf("error of kind %s: %v", mvm.KindOf(err), err)
			}
			return
		}
		if r.check() != nil || len(r.Hosts) > maxHosts {
			t.Fatalf("passed as %+v", r)
		}
	})
}

// FuzzPEM feeds certificates, keys and revocation lists.
func FuzzPEM(f *testing.F) {
	ca, all := seeds(f)
	for _, s := range all {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCert(b, "cert"); err == nil {
			_ = Describe(c)
			if id, err := IdentityOf(c); err == nil && id.Validate() != nil {
				t.Fatalf("certificate of %+v", id)
			}
		} else if !mvm.IsKind(err, mvm.KindInvalid) {
			t.Fatalf("certificate: error of kind %s", mvm.KindOf(err))
		}
		if _, err := parseKey(b, "key"); err != nil && !mvm.IsKind(err, mvm.KindInvalid) {
			t.Fatalf("key: error of kind %s", mvm.KindOf(err))
		}
		if _, err := parseCRL(b, ca); err != nil && !mvm.IsKind(err, mvm.KindInvalid) && !mvm.IsKind(err, mvm.KindPolicy) {
			t.Fatalf("list: error of kind %s", mvm.KindOf(err))
		}
	})
}
