package pki

import (
	"crypto/tls"
	"crypto/x509"
	"path/filepath"

	"mvm"
)

// The files of a client's folder.
const (
	ClientCA   = "ca.pem"
	ClientCert = "cert.pem"
	ClientKey  = "key.pem"
)

// ClientTLS is the configuration of a client with the certificate, key and CA in the
// folder: TLS 1.3 only, to a server whose certificate is a node's of that CA, in force,
// and for the name or address that was dialled.
func ClientTLS(dir string) (*tls.Config, error) {
	text := map[string][]byte{}
	for _, name := range []string{ClientCA, ClientCert, ClientKey} {
		b, err := readClient(filepath.Join(dir, name), name == ClientKey)
		if err != nil {
			return nil, err
		}
		text[name] = b
	}
	ca, err := ParseCert(text[ClientCA], filepath.Join(dir, ClientCA))
	if err != nil {
		return nil, err
	}
	domain, err := domainOf(ca)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(text[ClientCert], text[ClientKey])
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "certificate and key in %s: %w", dir, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: roots,
		VerifyConnection: func(c tls.ConnectionState) error {
			id, err := IdentityOf(c.PeerCertificates[0])
			if err == nil && (id.Node == "" || id.Domain != domain) {
				err = mvm.Errorf(mvm.KindPolicy, "server shows the certificate of %s, not of a node of %s", id.URI(), domain)
			}
			return err
		}}, nil
}

// readClient reads a file of a client's folder; it may be a symlink, as secrets that are
// mounted are.
func readClient(path string, secret bool) ([]byte, error) {
	b, err := readFile(path, 0, MaxPEM, secret)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return nil, mvm.Errorf(mvm.KindInvalid, "client's certificate: %w", err).
			WithFix("copy the folder that `mvm agent certs client` created on the node, and set it with --certs or MVM_CERTS")
	}
	return b, err
}
