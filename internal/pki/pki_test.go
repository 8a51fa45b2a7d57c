package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/pki"
)

const day = 24 * time.Hour

// newDir makes a folder with a CA and a node's certificate.
func newDir(t *testing.T) (*pki.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "certs")
	d := pki.At(path, "mvm")
	if made, err := d.Init(time.Now()); err != nil || !made {
		t.Fatalf("init: %t, %v", made, err)
	}
	if _, err := d.RotateNode("n1", []string{"node.example", "127.0.0.1"}, day, time.Now()); err != nil {
		t.Fatal(err)
	}
	return d, path
}

func read(t *testing.T, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustParse(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	c, err := pki.ParseCert(text, "cert")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIdentities(t *testing.T) {
	for s, want := range map[string]pki.Identity{
		"spiffe://mvm/node/n1":                           {Domain: "mvm", Node: "n1"},
		"spiffe://a.b-c_d/client/laptop":                 {Domain: "a.b-c_d", Client: "laptop"},
		"spiffe://mvm/tenant/acme/client/web":            {Domain: "mvm", Tenant: "acme", Client: "web"},
		"http://mvm/node/n1":                             {},
		"spiffe:/mvm/node/n1":                            {},
		"spiffe:///node/n1":                              {},
		"spiffe://mvm/node/":                             {},
		"spiffe://mvm/node/n1/":                          {},
		"spiffe://mvm//node/n1":                          {},
		"spiffe://mvm/node/n1?x":                         {},
		"spiffe://mvm/node/n1#x":                         {},
		"spiffe://u@mvm/node/n1":                         {},
		"spiffe://mvm:1/node/n1":                         {},
		"spiffe://MVM/node/n1":                           {},
		"spiffe://mvm/node/N1":                           {},
		"spiffe://mvm/node/%6e1":                         {},
		"spiffe://mvm/client/../node/n1":                 {},
		"spiffe://mvm/tenant//client/web":                {},
		"spiffe://mvm/tenant/acme/node/n1":               {},
		"spiffe://mvm/tenant/acme/client/web/x":          {},
		"spiffe://mvm/tenant/acme%2fclient/web":          {},
		"spiffe://mvm/" + strings.Repeat("a", 600):       {},
		"spiffe://mvm/client/" + strings.Repeat("a", 64): {},
	} {
		got, err := pki.ParseIdentity(s)
		if got != want || (err == nil) != (want != pki.Identity{}) {
			t.Errorf("%s: got %+v, %v, want %+v", s, got, err, want)
		}
		if err != nil && !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%s: error of kind %s", s, mvm.KindOf(err))
		}
	}
}

func TestInitKeepsTheCA(t *testing.T) {
	d, path := newDir(t)
	ca, key := read(t, path, "ca.pem"), read(t, path, "ca.key")
	if made, err := d.Init(time.Now()); made || err != nil {
		t.Errorf("second init: %t, %v", made, err)
	}
	if !bytes.Equal(ca, read(t, path, "ca.pem")) || !bytes.Equal(key, read(t, path, "ca.key")) {
		t.Error("the CA was replaced")
	}
	for name, perm := range map[string]os.FileMode{"ca.key": 0o600, "node.pem": 0o600, "issued.jsonl": 0o600, "ca.pem": 0o644, "ca.crl": 0o644} {
		if st, err := os.Stat(filepath.Join(path, name)); err != nil || st.Mode().Perm() != perm {
			t.Errorf("%s: %v, %v, want %v", name, st.Mode(), err, perm)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", st.Mode(), err)
	}
	if err := os.Remove(filepath.Join(path, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Init(time.Now()); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("init without the key: %v, want it refused", err)
	}
}

// A crash after the key leaves a CA that the next init completes.
func TestInitAfterACrash(t *testing.T) {
	_, path := newDir(t)
	key := read(t, path, "ca.key")
	for _, name := range []string{"ca.pem", "ca.crl"} {
		if err := os.Remove(filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if made, err := pki.At(path, "mvm").Init(time.Now()); err != nil || !made {
		t.Errorf("init: %t, %v", made, err)
	}
	if !bytes.Equal(key, read(t, path, "ca.key")) {
		t.Error("the key was replaced")
	}
}

func TestKeysThatOthersCanRead(t *testing.T) {
	d, path := newDir(t)
	if err := os.Chmod(filepath.Join(path, "ca.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := d.NewClient("laptop", "", day, time.Now()); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("signing with a key of mode 0640: %v", err)
	}
	if err := os.Rename(filepath.Join(path, "node.pem"), filepath.Join(path, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", filepath.Join(path, "node.pem")); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Status(time.Now()); err != nil || s.Problem == "" {
		t.Errorf("a node.pem that is a link: %+v, %v", s, err)
	}
}

func TestWhatIsSigned(t *testing.T) {
	d, path := newDir(t)
	ca := mustParse(t, read(t, path, "ca.pem"))
	cert, key, info, err := d.NewClient("web", "acme", 2*day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(key, []byte("PRIVATE KEY")) {
		t.Errorf("no key")
	}
	c := mustParse(t, cert)
	if err := c.CheckSignatureFrom(ca); err != nil {
		t.Error(err)
	}
	id, err := pki.IdentityOf(c)
	if err != nil || id.URI() != "spiffe://mvm/tenant/acme/client/web" || info.Identity != id.URI() || id.Asker() != mvm.ParseAsker("api:acme/web") {
		t.Errorf("identity %+v, %v, %+v", id, err, info)
	}
	if left := time.Until(c.NotAfter); left > 2*day || left < 2*day-time.Minute || time.Until(c.NotBefore) > -pki.Skew+time.Minute {
		t.Errorf("valid from %s to %s", c.NotBefore, c.NotAfter)
	}
	if c.KeyUsage != x509.KeyUsageDigitalSignature || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || c.IsCA {
		t.Errorf("usage %v %v, CA %t", c.KeyUsage, c.ExtKeyUsage, c.IsCA)
	}
	if list, err := d.Issued(time.Now()); err != nil || len(list) != 2 || list[1].Serial != info.Serial {
		t.Errorf("issued %+v, %v", list, err)
	}
	if list, err := d.Issued(time.Now().Add(40 * day)); err != nil || len(list) != 0 {
		t.Errorf("issued, long after: %+v, %v", list, err)
	}
	for name, want := range map[string]string{"": "", "A": "", "a b": "", "../x": ""} {
		if _, _, _, err := d.NewClient(name, want, day, time.Now()); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("client %q: %v", name, err)
		}
	}
	if _, _, _, err := pki.At(path, "other").NewClient("x", "", day, time.Now()); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "set trust_domain") {
		t.Errorf("another trust domain: %v", err)
	}
}

func TestRequestOfANodeElsewhere(t *testing.T) {
	signer, path := newDir(t)
	there := filepath.Join(t.TempDir(), "certs")
	d := pki.At(there, "mvm")
	csr, err := d.NewRequest(pki.Identity{Domain: "mvm", Node: "n2"}, []string{"n2.example"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.ParseRequest(csr)
	if err != nil || r.Identity.Node != "n2" || len(r.Hosts) != 1 {
		t.Fatalf("request %+v, %v", r, err)
	}
	cert, _, err := signer.Sign(r, day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.InstallNode(cert, nil, nil, time.Now()); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("without a CA: %v", err)
	}
	ca, crl := read(t, path, "ca.pem"), read(t, path, "ca.crl")
	if _, err := d.InstallNode(read(t, path, "node.pem"), ca, crl, time.Now()); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("the certificate of another key: %v", err)
	}
	if _, err := d.InstallNode(cert, ca, crl, time.Now().Add(2*day)); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("an expired one: %v", err)
	}
	if info, err := d.InstallNode(cert, ca, crl, time.Now()); err != nil || info.Identity != "spiffe://mvm/node/n2" {
		t.Fatalf("install: %+v, %v", info, err)
	}
	s, err := d.Status(time.Now())
	if err != nil || s.CA.Subject != "CN=mvm CA of mvm,O=mvm mvm" || s.Node.Identity != "spiffe://mvm/node/n2" {
		t.Fatalf("status %+v, %+v, %v", s.CA, s.Node, err)
	}
	if s.Problem != "" || s.RenewsItself || s.CAKeyHere || s.RequestWaits {
		t.Errorf("status %+v, %v", s, err)
	}
	if _, err := d.InstallNode(cert, nil, nil, time.Now()); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("again: %v", err)
	}
	_, other := newDir(t)
	if _, err := d.InstallNode(nil, read(t, other, "ca.pem"), nil, time.Now()); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("another CA: %v", err)
	}
	if _, err := d.InstallNode(nil, nil, read(t, other, "ca.crl"), time.Now()); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("another CA's list: %v", err)
	}
	if _, err := signer.Revoke("node/n2", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.InstallNode(nil, nil, read(t, path, "ca.crl"), time.Now()); err != nil {
		t.Errorf("a newer list: %v", err)
	}
	if _, err := d.InstallNode(nil, nil, crl, time.Now()); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("an older list: %v", err)
	}
	if s, err := d.Status(time.Now()); err != nil || !s.Node.Revoked || !strings.Contains(s.Problem, "revoked") {
		t.Errorf("status when revoked: %+v, %v", s, err)
	}
}

// csr makes requests that our own code would not.
func csr(t *testing.T, change func(*x509.CertificateRequest)) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse("spiffe://mvm/client/laptop")
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}, URIs: []*url.URL{u}}
	change(r)
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestRequestsThatAreRefused(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse("spiffe://mvm/client/laptop")
	rsaDER, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{u}}, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	good := csr(t, func(*x509.CertificateRequest) {})
	if _, err := pki.ParseRequest(good); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	b, _ := pem.Decode(good)
	b.Bytes[len(b.Bytes)-1] ^= 1
	for name, text := range map[string][]byte{
		"nothing":           nil,
		"no PEM":            []byte("hello"),
		"a certificate":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Bytes}),
		"too large":         bytes.Repeat([]byte("x"), pki.MaxPEM+1),
		"another's key":     pem.EncodeToMemory(b),
		"RSA":               pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: rsaDER}),
		"no identity":       csr(t, func(r *x509.CertificateRequest) { r.URIs = nil }),
		"two identities":    csr(t, func(r *x509.CertificateRequest) { r.URIs = append(r.URIs, u) }),
		"not an identity":   csr(t, func(r *x509.CertificateRequest) { r.URIs[0] = &url.URL{Scheme: "https", Host: "mvm"} }),
		"mail":              csr(t, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }),
		"hosts of a client": csr(t, func(r *x509.CertificateRequest) { r.DNSNames = []string{"bank.example"} }),
		"a wildcard":        csr(t, func(r *x509.CertificateRequest) { r.URIs[0].Path = "/node/n1"; r.DNSNames = []string{"*.example"} }),
	} {
		u.Path = "/client/laptop"
		if _, err := pki.ParseRequest(text); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
}

func TestRevoke(t *testing.T) {
	d, _ := newDir(t)
	now := time.Now()
	var serials []string
	for _, c := range [][2]string{{"laptop", ""}, {"laptop", ""}, {"web", "acme"}, {"ci", "acme"}, {"web", "other"}} {
		_, _, info, err := d.NewClient(c[0], c[1], day, now)
		if err != nil {
			t.Fatal(err)
		}
		serials = append(serials, info.Serial)
	}
	revoked := func() (out string) {
		list, err := d.Issued(now)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			for n, s := range serials {
				if c.Serial == s && c.Revoked {
					out += string(rune('0' + n))
				}
			}
		}
		return out
	}
	for _, step := range []struct {
		which string
		n     int
		want  string
	}{{serials[3], 1, "3"}, {strings.ToUpper(serials[3]), 0, "3"}, {"tenant/acme", 1, "23"}, {"client/laptop", 2, "0123"}, {"spiffe://mvm/tenant/other/client/web", 1, "01234"}} {
		got, err := d.Revoke(step.which, now)
		if err != nil || len(got) != step.n || revoked() != step.want {
			t.Errorf("revoke %s: %d, %v, revoked now %s, want %d and %s", step.which, len(got), err, revoked(), step.n, step.want)
		}
	}
	for _, which := range []string{"", "client", "tenant/nobody", "acme", "node/n2"} {
		if _, err := d.Revoke(which, now); !mvm.IsKind(err, mvm.KindNotFound) {
			t.Errorf("revoke %q: %v", which, err)
		}
	}
	if _, err := d.Revoke("client/laptop", now.Add(2*day)); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("revoke what is over: %v", err)
	}
	if _, _, _, err := d.NewClient("laptop", "", day, now); err != nil {
		t.Errorf("a new certificate after a revocation: %v", err)
	}
	if revoked() != "01234" {
		t.Errorf("revoked now: %s", revoked())
	}
}

func TestClientFiles(t *testing.T) {
	d, path := newDir(t)
	cert, key, _, err := d.NewClient("laptop", "", day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	put := func(dir, name string, text []byte, perm os.FileMode) {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), text, perm)); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		ca, cert, key []byte
		perm          os.FileMode
		want          mvm.Kind
	}{
		"whole":         {read(t, path, "ca.pem"), cert, key, 0o600, ""},
		"open key":      {read(t, path, "ca.pem"), cert, key, 0o644, mvm.KindPolicy},
		"another's key": {read(t, path, "ca.pem"), read(t, path, "node.pem"), key, 0o600, mvm.KindInvalid},
		"no CA":         {[]byte("x"), cert, key, 0o600, mvm.KindInvalid},
		"too large":     {bytes.Repeat([]byte("x"), pki.MaxPEM+1), cert, key, 0o600, mvm.KindInvalid},
	} {
		dir := filepath.Join(t.TempDir(), "c")
		put(dir, "ca.pem", tc.ca, 0o644)
		put(dir, "cert.pem", tc.cert, 0o644)
		put(dir, "key.pem", tc.key, tc.perm)
		if _, err := pki.ClientTLS(dir); mvm.KindOf(err) != tc.want {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	if _, err := pki.ClientTLS(filepath.Join(t.TempDir(), "none")); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "--certs") {
		t.Errorf("no folder: %v", err)
	}
}

// What root makes in the folder of the agent's user is that user's, so that the agent
// can read and renew it.
func TestRootWritesForTheOwnerOfTheFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	path := filepath.Join(t.TempDir(), "certs")
	if err := errors.Join(os.Mkdir(path, 0o700), os.Chown(path, 54320, 54321)); err != nil {
		t.Fatal(err)
	}
	d := pki.At(path, "mvm")
	if _, err := d.Init(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.RotateNode("n1", nil, day, time.Now()); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("hosts of a certificate that is not there: %v", err)
	}
	if _, err := d.RotateNode("n1", []string{"localhost"}, day, time.Now()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) < 6 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if sys := st.Sys().(*syscall.Stat_t); sys.Uid != 54320 || sys.Gid != 54321 {
			t.Errorf("%s belongs to %d:%d", e.Name(), sys.Uid, sys.Gid)
		}
	}
	if err := errors.Join(os.Remove(filepath.Join(path, ".lock")), os.WriteFile(filepath.Join(path, "x"), nil, 0o600), os.Link(filepath.Join(path, "x"), filepath.Join(path, ".lock"))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Init(time.Now()); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("a lock with another name: %v, want it not given away", err)
	}
}
