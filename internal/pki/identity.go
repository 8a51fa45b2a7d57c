// Package pki keeps who may talk to a node's API, and as whom: a certificate
// authority (CA), certificates of nodes and clients, and what was revoked, all in one
// folder of files.
//
// A certificate has one identity, a URI among its names:
//
//	spiffe://DOMAIN/node/NODE                   a node; for servers only
//	spiffe://DOMAIN/client/NAME                 an operator; for clients only
//	spiffe://DOMAIN/tenant/TENANT/client/NAME   a client of one tenant
//
// The files: ca.pem and ca.key (on the host that signs), ca.crl (the revocation list,
// signed by the CA), issued.jsonl (what was signed), node.pem (the node's certificate
// and key together, so that they are replaced together), request.key (of a request
// that waits for its certificate). What holds a key is 0600 and the folder 0700; a
// key is never overwritten by another's making.
//
// Nothing here talks to a network. Errors have mvm kinds.
package pki

import (
	"net/url"
	"strings"

	"mvm"
)

// DefaultTrustDomain is the first part of identities where nothing else is said.
const DefaultTrustDomain = "mvm"

// maxIdentity bounds an identity's URI: it comes from certificates and requests.
const maxIdentity = 512

// Identity is whom a certificate is for. Exactly one of Node and Client is set.
type Identity struct {
	Domain string // trust domain
	Node   string // id of a node
	Client string // name of a client
	Tenant string // of a client: the only tenant it may act for; empty: it is an operator
}

// ParseIdentity reads the URI of an identity. Only the form that URI writes is taken.
func ParseIdentity(s string) (Identity, error) {
	bad := func(why string) (Identity, error) {
		return Identity{}, mvm.Errorf(mvm.KindInvalid, "identity %.100q %s", s, why).
			WithFix("use spiffe://DOMAIN/node/NODE, spiffe://DOMAIN/client/NAME or spiffe://DOMAIN/tenant/TENANT/client/NAME")
	}
	if len(s) > maxIdentity {
		return bad("is too long")
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "spiffe" {
		return bad("is not a spiffe URI")
	}
	id := Identity{Domain: u.Host}
	switch parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/"); {
	case len(parts) == 2 && parts[0] == "node":
		id.Node = parts[1]
	case len(parts) == 2 && parts[0] == "client":
		id.Client = parts[1]
	case len(parts) == 4 && parts[0] == "tenant" && parts[2] == "client":
		id.Tenant, id.Client = parts[1], parts[3]
		if id.Tenant == "" {
			return bad("names no tenant")
		}
	default:
		return bad("is neither a node's nor a client's")
	}
	if err := id.Validate(); err != nil {
		return Identity{}, err
	}
	if id.URI() != s {
		return bad("is not written in its one form")
	}
	return id, nil
}

// Validate checks the parts of the identity.
func (id Identity) Validate() error {
	if id.Domain == "" || len(id.Domain) > 255 || strings.Trim(id.Domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return mvm.Errorf(mvm.KindInvalid, "trust domain %.100q is not 1 to 255 of a-z, 0-9, '.', '-', '_'", id.Domain)
	}
	if id.Tenant != "" {
		if err := mvm.ValidateName("tenant", id.Tenant); err != nil {
			return err
		}
	}
	switch {
	case id.Node != "" && id.Client == "" && id.Tenant == "":
		return mvm.ValidateName("node", id.Node)
	case id.Node == "":
		return mvm.ValidateName("client", id.Client)
	}
	return mvm.Errorf(mvm.KindInvalid, "an identity is for a node or for a client, not both")
}

// URI returns the identity as it is in certificates.
func (id Identity) URI() string { return "spiffe://" + id.Domain + "/" + id.Short() }

// Short returns the identity without its trust domain, as people name it:
// "node/n1", "client/laptop", "tenant/acme/client/web".
func (id Identity) Short() string {
	switch {
	case id.Node != "":
		return "node/" + id.Node
	case id.Tenant != "":
		return "tenant/" + id.Tenant + "/client/" + id.Client
	}
	return "client/" + id.Client
}

// Asker names a client in the audit log.
func (id Identity) Asker() mvm.Asker {
	name := id.Client
	if id.Tenant != "" {
		name = id.Tenant + "/" + id.Client
	}
	return mvm.Asker{Kind: mvm.AskerAPI, ID: name}
}

func (id Identity) url() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.Domain, Path: "/" + id.Short()}
}
