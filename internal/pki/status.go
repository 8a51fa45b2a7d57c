package pki

import (
	"crypto/x509"
	"errors"
	"time"

	"mvm"
)

// Status is how it stands with the certificates of a node.
type Status struct {
	Dir           string    `json:"dir"`
	TrustDomain   string    `json:"trust_domain"`
	Node          *CertInfo `json:"node,omitempty"`
	RenewAt       time.Time `json:"renew_at,omitzero"`
	RenewsItself  bool      `json:"renews_itself"` // the running agent does: the CA's key is here
	RequestWaits  bool      `json:"request_waits"` // for its certificate
	CA            *CertInfo `json:"ca,omitempty"`
	CAKeyHere     bool      `json:"ca_key_here"`
	Revoked       int       `json:"revoked"`        // certificates on the revocation list
	RevokedNumber string    `json:"revoked_number"` // which list it is; a later one has a higher number
	// Problem says why remote clients can't be served; empty when they can.
	Problem string `json:"problem,omitempty"`
	Fix     string `json:"fix,omitempty"`
}

// Status looks at the folder. What is missing or wrong is in Problem; KindPolicy when
// the folder can't be read at all.
func (d *Dir) Status(now time.Time) (Status, error) {
	s := Status{Dir: d.path, TrustDomain: d.domain, CAKeyHere: d.HasCAKey(), RequestWaits: d.has(pendingFile)}
	err := d.status(&s, now)
	if mvm.IsKind(err, mvm.KindPolicy) && s.CA == nil {
		return s, err
	}
	s.problem(err)
	return s, nil
}

func (d *Dir) status(s *Status, now time.Time) error {
	ca, err := d.caCert()
	if err != nil {
		return err
	}
	signer := Describe(ca)
	s.CA = &signer
	list, err := d.loadCRL()
	if err != nil {
		return err
	}
	s.Revoked, s.RevokedNumber = len(list.revoked), list.number.String()
	n, err := d.loadNode(ca)
	if err != nil {
		return err
	}
	info := Describe(n.cert)
	info.Revoked = list.revoked[info.Serial]
	s.Node, s.RenewAt, s.RenewsItself = &info, renewAt(n.cert), s.CAKeyHere
	return n.inForce(list, now)
}

// inForce says why clients would not trust the certificate.
func (n *node) inForce(list *crl, now time.Time) error {
	switch {
	case now.After(n.cert.NotAfter):
		return mvm.Errorf(mvm.KindState, "certificate of %s expired at %s", n.id.Short(), n.cert.NotAfter.UTC().Format(time.RFC3339)).
			WithFix("run `mvm agent certs rotate`; if the CA's key is on another host, run `mvm agent certs request`")
	case now.Before(n.cert.NotBefore):
		return mvm.Errorf(mvm.KindState, "certificate of %s is not valid before %s", n.id.Short(), n.cert.NotBefore.UTC().Format(time.RFC3339)).
			WithFix("set the host's clock")
	case list.revoked[serialText(n.cert)]:
		return mvm.Errorf(mvm.KindState, "certificate of %s is revoked", n.id.Short()).WithFix("run `mvm agent certs rotate`")
	}
	return nil
}

func (s *Status) problem(err error) {
	if err == nil {
		return
	}
	s.Problem = err.Error()
	var e *mvm.Error
	if errors.As(err, &e) {
		s.Problem, s.Fix = e.Text, e.Fix
	}
}

// renewAt is the middle of a certificate's life.
func renewAt(c *x509.Certificate) time.Time {
	made := c.NotBefore.Add(Skew)
	return made.Add(c.NotAfter.Sub(made) / 2)
}
