package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"os"
	"syscall"
	"time"

	"mvm"
)

// ca is a CA that can sign.
type ca struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// HasCAKey reports whether this process can sign certificates here: a key that is
// root's alone is as good as on another host for an agent that runs as another user.
func (d *Dir) HasCAKey() bool {
	f, err := os.OpenFile(d.file(caKeyFile), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err == nil {
		_ = f.Close()
	}
	return err == nil
}

// Init makes a CA with an empty revocation list, unless one is there: a CA is kept.
// A key without its certificate, or a certificate whose key is elsewhere, is an error.
func (d *Dir) Init(now time.Time) (made bool, err error) {
	if err := (Identity{Domain: d.domain, Client: "x"}).Validate(); err != nil {
		return false, err
	}
	unlock, err := d.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	switch cert, key := d.has(caFile), d.has(caKeyFile); {
	case cert && key:
		if _, err := d.loadCA(); err != nil {
			return false, err
		}
		return false, d.ensureCRL(now)
	case cert:
		return false, mvm.Errorf(mvm.KindState, "create CA in %s: the certificate of a CA is here, but its key is on another host", d.path).
			WithFix("run this on the CA's host, which has ca.key")
	}
	if err := d.makeCA(now); err != nil {
		return false, err
	}
	return true, d.ensureCRL(now)
}

// makeCA writes the key and then the certificate. A key whose certificate was not
// written, because of a crash, has signed nothing; it gets its certificate now.
func (d *Dir) makeCA(now time.Time) error {
	if !d.has(caKeyFile) {
		key, err := newKey()
		if err != nil {
			return err
		}
		text, err := encodeKey(key)
		if err != nil {
			return err
		}
		if err := d.write(caKeyFile, text, 0o600); err != nil {
			return err
		}
	}
	text, err := d.read(caKeyFile, MaxPEM, true)
	if err != nil {
		return err
	}
	key, err := parseKey(text, "CA key")
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, caTemplate(d.domain, serial, now), caTemplate(d.domain, serial, now), key.Public(), key)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "make CA: %w", err)
	}
	return d.write(caFile, encodeCert(der), 0o644)
}

func caTemplate(domain string, serial *big.Int, now time.Time) *x509.Certificate {
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "mvm CA of " + domain, Organization: []string{"mvm " + domain}},
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain}}, NotBefore: now.Add(-Skew), NotAfter: now.Add(caLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
}

func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	_, _ = rand.Read(b)     // it never fails
	b[0] = b[0]&0x7f | 0x40 // positive, and always of the same length
	return new(big.Int).SetBytes(b), nil
}

// loadCA reads the CA that signs here.
func (d *Dir) loadCA() (*ca, error) {
	cert, err := d.caCert()
	if err != nil {
		return nil, err
	}
	text, err := d.read(caKeyFile, MaxPEM, true)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return nil, mvm.Errorf(mvm.KindState, "the CA's key is not in %s", d.path).WithFix("run this on the CA's host, which has ca.key")
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text, d.file(caKeyFile))
	if err != nil {
		return nil, err
	}
	if !sameKey(cert, key) {
		return nil, mvm.Errorf(mvm.KindState, "%s is not the key of %s", d.file(caKeyFile), d.file(caFile)).WithFix("restore the right files from your backup")
	}
	return &ca{cert: cert, key: key}, nil
}

// caCert reads the CA's certificate.
func (d *Dir) caCert() (*x509.Certificate, error) {
	text, err := d.read(caFile, MaxPEM, false)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return nil, mvm.Errorf(mvm.KindNotFound, "there is no CA in %s", d.path).
			WithFix("create one with `mvm agent certs init`, or use another host's CA: `mvm agent certs request`, then `mvm agent certs rotate`")
	}
	if err != nil {
		return nil, err
	}
	c, err := ParseCert(text, d.file(caFile))
	if err != nil {
		return nil, err
	}
	domain, err := domainOf(c)
	if err == nil && domain != d.domain {
		err = mvm.Errorf(mvm.KindState, "the CA in %s is for trust domain %s, not %s", d.path, domain, d.domain).
			WithFix("set trust_domain in the agent's config to %s", domain)
	}
	return c, err
}

// domainOf returns the trust domain of a CA.
func domainOf(c *x509.Certificate) (string, error) {
	if !c.IsCA || len(c.URIs) != 1 || c.URIs[0].Scheme != "spiffe" || c.URIs[0].Path != "" || c.CheckSignatureFrom(c) != nil {
		return "", mvm.Errorf(mvm.KindInvalid, "certificate %s is not an mvm CA's", serialText(c))
	}
	return c.URIs[0].Host, nil
}

// Sign makes the certificate that is asked for, valid for the time from now on, and
// notes it among the issued ones first. It returns it in PEM.
func (d *Dir) Sign(r Request, life time.Duration, now time.Time) ([]byte, CertInfo, error) {
	unlock, err := d.lock()
	if err != nil {
		return nil, CertInfo{}, err
	}
	defer unlock()
	return d.sign(r, life, now)
}

func (d *Dir) sign(r Request, life time.Duration, now time.Time) ([]byte, CertInfo, error) {
	if err := r.check(); err != nil {
		return nil, CertInfo{}, err
	}
	if r.Identity.Domain != d.domain {
		return nil, CertInfo{}, mvm.Errorf(mvm.KindPolicy, "sign certificate of %s: this CA is for trust domain %s", r.Identity.URI(), d.domain)
	}
	ca, err := d.loadCA()
	if err != nil {
		return nil, CertInfo{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, CertInfo{}, err
	}
	usage := x509.ExtKeyUsageClientAuth
	if r.Identity.Node != "" {
		usage = x509.ExtKeyUsageServerAuth
	}
	until := now.Add(life)
	if until.After(ca.cert.NotAfter) {
		until = ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: subject(r.Identity),
		URIs: []*url.URL{r.Identity.url()}, DNSNames: r.names, IPAddresses: r.ips, NotBefore: now.Add(-Skew), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, BasicConstraintsValid: true}, ca.cert, r.key, ca.key)
	if err != nil {
		return nil, CertInfo{}, mvm.Errorf(mvm.KindInternal, "sign certificate of %s: %w", r.Identity.Short(), err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, CertInfo{}, mvm.Errorf(mvm.KindInternal, "sign certificate of %s: %w", r.Identity.Short(), err)
	}
	info := Describe(cert)
	return encodeCert(der), info, d.noteIssued(info, now)
}

// NewClient makes a key and its certificate for a client, both in PEM. The key is
// written nowhere.
func (d *Dir) NewClient(name, tenant string, life time.Duration, now time.Time) (cert, key []byte, info CertInfo, err error) {
	k, err := newKey()
	if err != nil {
		return nil, nil, CertInfo{}, err
	}
	r, err := newRequest(Identity{Domain: d.domain, Client: name, Tenant: tenant}, nil, k.Public())
	if err != nil {
		return nil, nil, CertInfo{}, err
	}
	if key, err = encodeKey(k); err != nil {
		return nil, nil, CertInfo{}, err
	}
	cert, info, err = d.Sign(r, life, now)
	return cert, key, info, err
}

// CA returns the CA's certificate in PEM, for those who are to trust it.
func (d *Dir) CA() ([]byte, error) {
	c, err := d.caCert()
	if err != nil {
		return nil, err
	}
	return encodeCert(c.Raw), nil
}
