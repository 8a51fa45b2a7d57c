package pki

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"time"

	"mvm"
)

// node is a node's certificate with its key.
type node struct {
	id    Identity
	cert  *x509.Certificate
	hosts []string
	tls   tls.Certificate
}

// loadNode reads the node's certificate, which must be of this CA. That it is in force
// is not looked at.
func (d *Dir) loadNode(ca *x509.Certificate) (*node, error) {
	text, err := d.read(nodeFile, MaxPEM, true)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return nil, mvm.Errorf(mvm.KindNotFound, "there is no certificate of this node in %s", d.path).WithFix("create one with `mvm agent certs init`")
	}
	if err != nil {
		return nil, err
	}
	cert, err := ParseCert(text, d.file(nodeFile))
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text, d.file(nodeFile))
	if err != nil {
		return nil, err
	}
	return newNode(cert, key, ca, d.domain)
}

// newNode checks that a certificate is one of this CA for a node, and of the key.
func newNode(cert *x509.Certificate, key crypto.Signer, ca *x509.Certificate, domain string) (*node, error) {
	id, err := IdentityOf(cert)
	switch {
	case err != nil:
		return nil, err
	case id.Node == "" || id.Domain != domain:
		return nil, mvm.Errorf(mvm.KindPolicy, "certificate of %s is not of a node of %s", id.URI(), domain)
	case !sameKey(cert, key):
		return nil, mvm.Errorf(mvm.KindPolicy, "certificate of %s is for another key", id.Short()).
			WithFix("install the certificate for the last request, or create a new request")
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return nil, mvm.Errorf(mvm.KindPolicy, "certificate of %s is not signed by this node's CA: %w", id.Short(), err)
	}
	return &node{id: id, cert: cert, hosts: hostsOf(cert.DNSNames, cert.IPAddresses),
		tls: tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}}, nil
}

// RotateNode makes a new key and certificate of the node with the CA of this folder,
// and puts them in force. Without a node id and hosts it takes those of the present one.
func (d *Dir) RotateNode(nodeID string, hosts []string, life time.Duration, now time.Time) (CertInfo, error) {
	unlock, err := d.lock()
	if err != nil {
		return CertInfo{}, err
	}
	defer unlock()
	if nodeID == "" || hosts == nil {
		ca, err := d.caCert()
		if err != nil {
			return CertInfo{}, err
		}
		old, err := d.loadNode(ca)
		if err != nil {
			return CertInfo{}, err
		}
		if nodeID == "" {
			nodeID = old.id.Node
		}
		if hosts == nil {
			hosts = old.hosts
		}
	}
	key, err := newKey()
	if err != nil {
		return CertInfo{}, err
	}
	r, err := newRequest(Identity{Domain: d.domain, Node: nodeID}, hosts, key.Public())
	if err != nil {
		return CertInfo{}, err
	}
	cert, info, err := d.sign(r, life, now)
	if err != nil {
		return CertInfo{}, err
	}
	return info, d.writeNode(cert, key)
}

func (d *Dir) writeNode(cert []byte, key crypto.Signer) error {
	text, err := encodeKey(key)
	if err != nil {
		return err
	}
	return d.write(nodeFile, append(bytes.Clone(cert), text...), 0o600)
}

// HasNode reports whether a certificate of this node is there.
func (d *Dir) HasNode() bool { return d.has(nodeFile) }

// NewRequest makes a key, keeps it until InstallNode, and returns a request for its
// certificate in PEM. An earlier request that was not answered is forgotten.
func (d *Dir) NewRequest(id Identity, hosts []string) ([]byte, error) {
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	r, err := newRequest(id, hosts, key.Public())
	if err != nil {
		return nil, err
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := d.write(pendingFile, text, 0o600); err != nil {
		return nil, err
	}
	return r.encode(key)
}

// InstallNode puts the certificate in force that answers the last request. ca and crl
// are those of the host that signed; nil: those that are here. A CA that is here is
// never replaced by another, nor a revocation list by an older one.
func (d *Dir) InstallNode(cert, ca, crl []byte, now time.Time) (CertInfo, error) {
	unlock, err := d.lock()
	if err != nil {
		return CertInfo{}, err
	}
	defer unlock()
	if err := d.installCA(ca, crl); err != nil {
		return CertInfo{}, err
	}
	if cert == nil {
		return CertInfo{}, nil
	}
	signer, err := d.caCert()
	if err != nil {
		return CertInfo{}, err
	}
	c, err := ParseCert(cert, "certificate")
	if err != nil {
		return CertInfo{}, err
	}
	text, err := d.read(pendingFile, MaxPEM, true)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return CertInfo{}, mvm.Errorf(mvm.KindState, "this node has no open certificate request").WithFix("create one with `mvm agent certs request`")
	}
	if err != nil {
		return CertInfo{}, err
	}
	key, err := parseKey(text, d.file(pendingFile))
	if err != nil {
		return CertInfo{}, err
	}
	n, err := newNode(c, key, signer, d.domain)
	if err != nil {
		return CertInfo{}, err
	}
	if now.After(c.NotAfter) {
		return CertInfo{}, mvm.Errorf(mvm.KindPolicy, "certificate of %s expired at %s", n.id.Short(), c.NotAfter.Format(time.RFC3339))
	}
	if err := d.writeNode(encodeCert(c.Raw), key); err != nil {
		return CertInfo{}, err
	}
	return Describe(c), d.remove(pendingFile)
}

// installCA takes over the CA's certificate and its revocation list.
func (d *Dir) installCA(ca, list []byte) error {
	if ca != nil {
		c, err := ParseCert(ca, "certificate of the CA")
		if err != nil {
			return err
		}
		if domain, err := domainOf(c); err != nil || domain != d.domain {
			return errors.Join(err, mvm.Errorf(mvm.KindInvalid, "certificate of the CA is not that of a CA of trust domain %s", d.domain))
		}
		have, err := d.caCert()
		switch {
		case err == nil && !have.Equal(c):
			return mvm.Errorf(mvm.KindState, "another CA is in %s", d.path).WithFix("to use another CA, set cert_dir to another folder")
		case mvm.IsKind(err, mvm.KindNotFound):
			if err := d.write(caFile, encodeCert(c.Raw), 0o644); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	if list == nil {
		return nil
	}
	signer, err := d.caCert()
	if err != nil {
		return err
	}
	next, err := parseCRL(list, signer)
	if err != nil {
		return err
	}
	have := big.NewInt(0)
	if old, err := d.loadCRL(); err == nil {
		have = old.number
	}
	if next.number.Cmp(have) < 0 {
		return mvm.Errorf(mvm.KindState, "revocation list %s is older than the installed one, %s", next.number, have)
	}
	return d.write(crlFile, list, 0o644)
}
