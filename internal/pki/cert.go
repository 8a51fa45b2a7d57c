package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net"
	"strings"
	"time"

	"mvm"
)

// Bounds of what is read and made.
const (
	MaxPEM   = 256 << 10 // of a file or request, before it is parsed; a CRL may have more
	MaxCRL   = 8 << 20   // of a revocation list
	maxHosts = 32

	// Skew is how far the clocks of two machines may differ: a certificate is valid
	// this long before it was made.
	Skew = 5 * time.Minute

	caLife = 10 * 365 * 24 * time.Hour
)

// CertInfo describes a certificate.
type CertInfo struct {
	Subject     string    `json:"subject"`
	Identity    string    `json:"identity"`        // the URI among its names
	Hosts       []string  `json:"hosts,omitempty"` // names and addresses that a node answers under
	Serial      string    `json:"serial"`          // hex
	Fingerprint string    `json:"fingerprint"`     // SHA-256 of the certificate, hex
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Revoked     bool      `json:"revoked"`
}

// Describe says what is in a certificate.
func Describe(c *x509.Certificate) CertInfo {
	sum := sha256.Sum256(c.Raw)
	info := CertInfo{Subject: c.Subject.String(), Hosts: hostsOf(c.DNSNames, c.IPAddresses), Serial: serialText(c),
		Fingerprint: hex.EncodeToString(sum[:]), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
	if len(c.URIs) == 1 {
		info.Identity = c.URIs[0].String()
	}
	return info
}

func serialText(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) }

func hostsOf(names []string, ips []net.IP) (hosts []string) {
	hosts = append(hosts, names...)
	for _, ip := range ips {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

// IdentityOf returns the identity of a certificate, which must have exactly one, be
// for its purpose only, and no CA. Whether it is to be trusted is not looked at.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	if len(c.URIs) != 1 {
		return Identity{}, mvm.Errorf(mvm.KindPolicy, "certificate %s has %d identities, not one", serialText(c), len(c.URIs))
	}
	id, err := ParseIdentity(c.URIs[0].String())
	if err != nil {
		return Identity{}, mvm.Errorf(mvm.KindPolicy, "certificate %s: %w", serialText(c), err)
	}
	want := x509.ExtKeyUsageClientAuth
	if id.Node != "" {
		want = x509.ExtKeyUsageServerAuth
	}
	if c.IsCA || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != want || len(c.UnknownExtKeyUsage) > 0 {
		return Identity{}, mvm.Errorf(mvm.KindPolicy, "certificate of %s is for another purpose than that", id.Short())
	}
	return id, nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make key: %w", err)
	}
	return key, nil
}

// goodKey takes keys that are strong and quick to check.
func goodKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "key of type %T is not supported", pub).WithFix("use ECDSA P-256, P-384 or Ed25519")
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// block returns the first PEM block of the type; other types before it are passed over.
func block(data []byte, what, kind string, limit int) ([]byte, error) {
	if len(data) > limit {
		return nil, mvm.Errorf(mvm.KindInvalid, "%s has %d bytes, more than %d", what, len(data), limit)
	}
	for rest := data; ; {
		var b *pem.Block
		b, rest = pem.Decode(rest)
		switch {
		case b == nil:
			return nil, mvm.Errorf(mvm.KindInvalid, "%s has no PEM block %q", what, kind)
		case b.Type == kind && len(b.Headers) == 0:
			return b.Bytes, nil
		}
	}
}

// ParseCert reads the first certificate of a PEM text.
func ParseCert(data []byte, what string) (*x509.Certificate, error) {
	der, err := block(data, what, "CERTIFICATE", MaxPEM)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "%s: %w", what, err)
	}
	return c, nil
}

func parseKey(data []byte, what string) (crypto.Signer, error) {
	der, err := block(data, what, "PRIVATE KEY", MaxPEM)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "%s: its key can't be read", what) // the cause may quote it
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, mvm.Errorf(mvm.KindInvalid, "%s: its key can't sign", what)
	}
	return signer, nil
}

// sameKey reports whether the certificate is of the key.
func sameKey(c *x509.Certificate, key crypto.Signer) bool {
	a, errA := x509.MarshalPKIXPublicKey(c.PublicKey)
	b, errB := x509.MarshalPKIXPublicKey(key.Public())
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// SplitHosts sorts names from addresses, and refuses what is neither.
func SplitHosts(hosts []string) (names []string, ips []net.IP, err error) {
	if len(hosts) > maxHosts {
		return nil, nil, mvm.Errorf(mvm.KindInvalid, "%d hosts are more than %d", len(hosts), maxHosts)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			ips = append(ips, ip)
			continue
		}
		if !hostName(h) {
			return nil, nil, mvm.Errorf(mvm.KindInvalid, "host %.100q is neither a name nor an address", h)
		}
		names = append(names, h)
	}
	return names, ips, nil
}

// hostName takes lower-case DNS names without wildcards.
func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if mvm.ValidateName("host", label) != nil {
			return false
		}
	}
	return true
}
