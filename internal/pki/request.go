package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"

	"mvm"
)

// Request asks a CA for a certificate. It is only what somebody says of himself until
// the CA's keeper has looked at it.
type Request struct {
	Identity Identity
	Hosts    []string // of a node

	names []string
	ips   []net.IP
	key   crypto.PublicKey
}

// newRequest checks a request that is made here.
func newRequest(id Identity, hosts []string, key crypto.PublicKey) (Request, error) {
	r := Request{Identity: id, Hosts: hosts, key: key}
	var err error
	if r.names, r.ips, err = SplitHosts(hosts); err != nil {
		return Request{}, err
	}
	return r, r.check()
}

func (r Request) check() error {
	if err := r.Identity.Validate(); err != nil {
		return err
	}
	if r.Identity.Node == "" && len(r.Hosts) > 0 {
		return mvm.Errorf(mvm.KindInvalid, "request of %s has host names, which only nodes have", r.Identity.Short())
	}
	return goodKey(r.key)
}

// encode signs the request with its key: a CSR (PKCS #10) in PEM.
func (r Request) encode(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject(r.Identity),
		URIs: []*url.URL{r.Identity.url()}, DNSNames: r.names, IPAddresses: r.ips}, key)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ParseRequest reads a CSR in PEM of at most MaxPEM bytes: its signature must be that
// of its own key, and it must ask for one identity and nothing that we do not sign.
func ParseRequest(data []byte) (Request, error) {
	der, err := block(data, "certificate request", "CERTIFICATE REQUEST", MaxPEM)
	if err != nil {
		return Request{}, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, mvm.Errorf(mvm.KindInvalid, "certificate request: %w", err)
	}
	if err := goodKey(csr.PublicKey); err != nil {
		return Request{}, mvm.Errorf(mvm.KindInvalid, "certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, mvm.Errorf(mvm.KindInvalid, "certificate request is not signed by its own key: %w", err)
	}
	if len(csr.URIs) != 1 || len(csr.EmailAddresses) > 0 {
		return Request{}, mvm.Errorf(mvm.KindInvalid, "certificate request has %d identities and %d mail addresses; it must have one identity", len(csr.URIs), len(csr.EmailAddresses))
	}
	id, err := ParseIdentity(csr.URIs[0].String())
	if err != nil {
		return Request{}, mvm.Errorf(mvm.KindInvalid, "certificate request: %w", err)
	}
	return newRequest(id, hostsOf(csr.DNSNames, csr.IPAddresses), csr.PublicKey)
}

func subject(id Identity) pkix.Name {
	return pkix.Name{CommonName: id.Short(), Organization: []string{"mvm " + id.Domain}}
}

// MakeRequest makes a key and a request for its certificate, both in PEM, for whoever
// keeps the key himself.
func MakeRequest(id Identity, hosts []string) (csr, key []byte, err error) {
	k, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	r, err := newRequest(id, hosts, k.Public())
	if err != nil {
		return nil, nil, err
	}
	if key, err = encodeKey(k); err != nil {
		return nil, nil, err
	}
	csr, err = r.encode(k)
	return csr, key, err
}
