package pki

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"time"

	"mvm"
)

// crl is the CA's list of revoked certificates.
type crl struct {
	number  *big.Int
	entries []x509.RevocationListEntry
	revoked map[string]bool // by serial, hex
}

// ensureCRL makes an empty list where there is none.
func (d *Dir) ensureCRL(now time.Time) error {
	if d.has(crlFile) {
		_, err := d.loadCRL()
		return err
	}
	return d.writeCRL(nil, big.NewInt(1), now)
}

// loadCRL reads the list, whose signature must be the CA's.
func (d *Dir) loadCRL() (*crl, error) {
	ca, err := d.caCert()
	if err != nil {
		return nil, err
	}
	text, err := d.read(crlFile, MaxCRL, false)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return nil, mvm.Errorf(mvm.KindState, "the CA's revocation list is not in %s", d.path).
			WithFix("copy ca.crl from the CA's host: without it, revoked certificates are unknown")
	}
	if err != nil {
		return nil, err
	}
	return parseCRL(text, ca)
}

// parseCRL reads a list and checks that the CA signed it.
func parseCRL(text []byte, ca *x509.Certificate) (*crl, error) {
	der, err := block(text, "revocation list", "X509 CRL", MaxCRL)
	if err != nil {
		return nil, err
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "revocation list: %w", err)
	}
	if err := list.CheckSignatureFrom(ca); err != nil {
		return nil, mvm.Errorf(mvm.KindPolicy, "revocation list is not signed by this CA: %w", err)
	}
	if list.Number == nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "revocation list has no number")
	}
	c := &crl{number: list.Number, entries: list.RevokedCertificateEntries, revoked: map[string]bool{}}
	for _, e := range list.RevokedCertificateEntries {
		c.revoked[hex.EncodeToString(e.SerialNumber.Bytes())] = true
	}
	return c, nil
}

// addRevoked puts certificates on the list.
func (d *Dir) addRevoked(certs []CertInfo, now time.Time) error {
	if len(certs) == 0 {
		return nil
	}
	old, err := d.loadCRL()
	if err != nil {
		return err
	}
	entries := old.entries
	for _, c := range certs {
		b, err := hex.DecodeString(c.Serial)
		if err != nil {
			return mvm.Errorf(mvm.KindInternal, "serial number %q: %w", c.Serial, err)
		}
		entries = append(entries, x509.RevocationListEntry{SerialNumber: new(big.Int).SetBytes(b), RevocationTime: now})
	}
	return d.writeCRL(entries, new(big.Int).Add(old.number, big.NewInt(1)), now)
}

func (d *Dir) writeCRL(entries []x509.RevocationListEntry, number *big.Int, now time.Time) error {
	ca, err := d.loadCA()
	if err != nil {
		return err
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{RevokedCertificateEntries: entries, Number: number,
		ThisUpdate: now, NextUpdate: ca.cert.NotAfter}, ca.cert, ca.key)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "make revocation list: %w", err)
	}
	return d.write(crlFile, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o644)
}
