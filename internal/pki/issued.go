package pki

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"mvm"
)

// keptAfterEnd is how long an issued or revoked certificate is remembered after it
// has expired.
const keptAfterEnd = 30 * 24 * time.Hour

// maxIssued bounds issued.jsonl.
const maxIssued = 64 << 20

// Issued returns the certificates that were signed here, oldest first, without those
// that expired long ago.
func (d *Dir) Issued(now time.Time) ([]CertInfo, error) {
	list, err := d.issued(now)
	if err != nil {
		return nil, err
	}
	crl, err := d.loadCRL()
	if err != nil {
		return nil, err
	}
	for n := range list {
		list[n].Revoked = crl.revoked[list[n].Serial]
	}
	return list, nil
}

func (d *Dir) issued(now time.Time) ([]CertInfo, error) {
	if _, err := d.loadCA(); err != nil {
		return nil, err
	}
	data, err := d.read(issuedFile, maxIssued, false)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []CertInfo
	for line := range bytes.Lines(data) {
		var c CertInfo
		if err := json.Unmarshal(line, &c); err != nil {
			return nil, mvm.Errorf(mvm.KindInternal, "read %s: line %d: %w", d.file(issuedFile), len(list)+1, err)
		}
		if c.NotAfter.Add(keptAfterEnd).After(now) {
			list = append(list, c)
		}
	}
	return list, nil
}

func (d *Dir) noteIssued(c CertInfo, now time.Time) error {
	list, err := d.issued(now)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, c := range append(list, c) {
		if err := enc.Encode(c); err != nil {
			return mvm.Errorf(mvm.KindInternal, "encode %s: %w", issuedFile, err)
		}
	}
	return d.write(issuedFile, b.Bytes(), 0o600)
}

// Revoke revokes certificates that were issued here and have not expired: the one
// with the serial number, or all of an identity ("client/laptop", "node/n1",
// "tenant/acme/client/web"), or of all clients of a tenant ("tenant/acme"). It returns those that were not
// revoked before; KindNotFound when nothing matches.
func (d *Dir) Revoke(which string, now time.Time) ([]CertInfo, error) {
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	all, err := d.Issued(now)
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(all, func(c CertInfo) bool { return !c.matches(which) || c.NotAfter.Before(now) })
	if len(found) == 0 {
		return nil, mvm.Errorf(mvm.KindNotFound, "no valid certificate matches %.100q", which).
			WithFix("see `mvm agent certs list`")
	}
	fresh := slices.DeleteFunc(found, func(c CertInfo) bool { return c.Revoked })
	if err := d.addRevoked(fresh, now); err != nil {
		return nil, err
	}
	for n := range fresh {
		fresh[n].Revoked = true
	}
	return fresh, nil
}

// matches reports whether the word names the certificate.
func (c CertInfo) matches(which string) bool {
	id, err := ParseIdentity(c.Identity)
	if err != nil {
		return false
	}
	return c.Serial == strings.ToLower(which) || id.URI() == which || id.Short() == which || id.Tenant != "" && "tenant/"+id.Tenant == which
}
