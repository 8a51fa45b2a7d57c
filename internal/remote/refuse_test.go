package remote_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/pki"
	"mvm/internal/remote"
)

// forge signs, with the node's own CA, a certificate that our code would not.
func (n *node) forge(change func(*x509.Certificate)) tls.Certificate {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.path, "ca.key"))
	if err != nil {
		n.t.Fatal(err)
	}
	p, _ := pem.Decode(b)
	caKey, err := x509.ParsePKCS8PrivateKey(p.Bytes)
	if err != nil {
		n.t.Fatal(err)
	}
	b, err = n.dir.CA()
	if err != nil {
		n.t.Fatal(err)
	}
	ca, err := pki.ParseCert(b, "CA")
	if err != nil {
		n.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(77), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Host: "mvm", Path: "/client/forged"}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
	if err != nil {
		n.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func spiffe(path string) *url.URL { return &url.URL{Scheme: "spiffe", Host: "mvm", Path: path} }

// TestRefusedClients: none of these reaches the service, each is told by the TLS
// handshake, and the node's log says why.
func TestRefusedClients(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	other, otherPath := newDir(t)
	otherCert, otherKey, _, err := other.NewClient("laptop", "", day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign := conf(t, bundle(t, otherPath, otherCert, otherKey)).Certificates[0]
	revoked := conf(t, n.bundle("revoked", "", day)).Certificates[0]
	if _, err := n.dir.Revoke("client/revoked", time.Now()); err != nil {
		t.Fatal(err)
	}
	node, err := tls.LoadX509KeyPair(filepath.Join(n.path, "node.pem"), filepath.Join(n.path, "node.pem"))
	if err != nil {
		t.Fatal(err)
	}
	good := n.forge(func(*x509.Certificate) {})
	for name, tc := range map[string]struct {
		certs []tls.Certificate
		log   string
		max   uint16
	}{
		"no certificate":           {nil, "didn't provide a certificate", 0},
		"another CA":               {[]tls.Certificate{foreign}, "certificate signed by unknown authority", 0},
		"expired":                  {[]tls.Certificate{n.forge(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}, "has expired", 0},
		"not yet valid":            {[]tls.Certificate{n.forge(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })}, "not yet valid", 0},
		"revoked":                  {[]tls.Certificate{revoked}, "is revoked", 0},
		"a node's certificate":     {[]tls.Certificate{node}, "incompatible key usage", 0},
		"a node's name":            {[]tls.Certificate{n.forge(func(c *x509.Certificate) { c.URIs[0] = spiffe("/node/n1") })}, "another purpose", 0},
		"for servers as well":      {[]tls.Certificate{n.forge(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) })}, "another purpose", 0},
		"another trust domain":     {[]tls.Certificate{n.forge(func(c *x509.Certificate) { c.URIs[0].Host = "evil" })}, "is not of a client of mvm", 0},
		"no identity":              {[]tls.Certificate{n.forge(func(c *x509.Certificate) { c.URIs = nil })}, "has 0 identities", 0},
		"two identities":           {[]tls.Certificate{n.forge(func(c *x509.Certificate) { c.URIs = append(c.URIs, spiffe("/client/b")) })}, "has 2 identities", 0},
		"an identity that is none": {[]tls.Certificate{n.forge(func(c *x509.Certificate) { c.URIs[0] = spiffe("/tenant//client/x") })}, "names no tenant", 0},
		"TLS 1.2":                  {[]tls.Certificate{good}, "unsupported versions", tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			c := conf(t, n.bundle("template", "", day))
			c.Certificates = tc.certs
			if tc.max != 0 {
				c.MinVersion, c.MaxVersion = tc.max, tc.max
			}
			client, err := api.DialRemote("https://"+n.addr, c)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			before := len(n.log.String())
			_, err = client.Tenants(ctxOf(t))
			if !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "refused this client's certificate") {
				t.Errorf("client got %v", err)
			}
			eventually(t, func() error {
				if got := n.log.String()[before:]; !strings.Contains(got, tc.log) {
					return mvm.Errorf(mvm.KindState, "the log has no %q:\n%s", tc.log, got)
				}
				return nil
			})
		})
	}
	if got := n.svc.asked(); got != "" {
		t.Errorf("the service was asked: %s", got)
	}
	c := conf(t, n.bundle("template", "", day))
	c.Certificates = []tls.Certificate{good}
	client, err := api.DialRemote("https://"+n.addr, c)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Tenants(ctxOf(t)); err != nil {
		t.Errorf("the certificate that is not wrong: %v", err)
	}
}

func TestPlainHTTPIsRefused(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	c, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET /v1/tenants HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var b [512]byte
	k, _ := c.Read(b[:])
	if got := string(b[:k]); strings.Contains(got, "HTTP/1.1 200") || n.svc.asked() != "" {
		t.Errorf("plain HTTP got %q, service asked %q", got, n.svc.asked())
	}
}

// TestRefusedServers: what a client does not talk to, before it has sent anything.
func TestRefusedServers(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	_, otherPath := newDir(t)
	otherNode, err := tls.LoadX509KeyPair(filepath.Join(otherPath, "node.pem"), filepath.Join(otherPath, "node.pem"))
	if err != nil {
		t.Fatal(err)
	}
	local := []net.IP{net.IPv4(127, 0, 0, 1)}
	server := func(c *x509.Certificate) {
		c.URIs[0], c.ExtKeyUsage, c.IPAddresses = spiffe("/node/n2"), []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, local
	}
	for name, tc := range map[string]struct {
		cert tls.Certificate
		want string // "" where the client talks to it
	}{
		"a node":                       {n.forge(server), ""},
		"a client's certificate":       {n.forge(func(c *x509.Certificate) { c.IPAddresses = local }), "incompatible key usage"},
		"a client's name":              {n.forge(func(c *x509.Certificate) { server(c); c.URIs[0] = spiffe("/client/laptop") }), "another purpose"},
		"another CA":                   {otherNode, "unknown authority"},
		"another host":                 {n.forge(func(c *x509.Certificate) { server(c); c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }), "--host"},
		"expired":                      {n.forge(func(c *x509.Certificate) { server(c); c.NotAfter = time.Now().Add(-time.Minute) }), "has expired"},
		"a node of another deployment": {n.forge(func(c *x509.Certificate) { server(c); c.URIs[0].Host = "evil" }), "not of a node of mvm"},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{tc.cert}, ClientAuth: tls.RequestClientCert})
			if err != nil {
				t.Fatal(err)
			}
			heard := make(chan string, 1)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					heard <- ""
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				var b [512]byte
				k, _ := c.Read(b[:])
				heard <- string(b[:k])
			}()
			client, err := api.DialRemote("https://"+ln.Addr().String(), conf(t, n.bundle("laptop", "", day)))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			_, err = client.Version(ctxOf(t))
			ln.Close()
			got := <-heard
			if tc.want == "" {
				if !strings.HasPrefix(got, "GET /v1/version") {
					t.Errorf("a good node heard %q, client got %v", got, err)
				}
				return
			}
			if !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("client got %v (%s), want %q", err, mvm.KindOf(err), tc.want)
			}
			if got != "" {
				t.Errorf("the server heard %q", got)
			}
		})
	}
}

// TestAnotherTenant: a tenant's client over the wire, by name and by a guessed id.
func TestAnotherTenant(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	c := n.client("web", "acme")
	ctx := ctxOf(t)
	if _, _, err := c.Tenant(ctx, "other"); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("tenant by name: %v", err)
	}
	if _, err := c.Instance(ctx, mvm.Address{Instance: "i-00000002"}); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("instance by its id: %v", err)
	}
	if _, err := c.Exec(ctx, mvm.Address{Instance: "i-00000002"}, mvm.ExecSpec{Argv: []string{"id"}}, mvm.ExecIO{}); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("exec by its id: %v", err)
	}
	if _, err := c.NodeInfo(ctx); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("the host: %v", err)
	}
	if _, err := c.CreateTenant(ctx, mvm.TenantSpec{ID: "acme"}); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("create tenant: %v", err)
	}
	if list, err := c.Tenants(ctx); err != nil || len(list) != 1 || list[0].ID != "acme" {
		t.Errorf("tenants: %+v, %v", list, err)
	}
	if i, err := c.Instance(ctx, mvm.Address{Instance: "i-00000001"}); err != nil || i.Tenant != "acme" {
		t.Errorf("its own instance: %+v, %v", i, err)
	}
	if got := n.svc.asked(); strings.Contains(got, "Exec") || strings.Contains(got, "Tenant other") || !strings.Contains(got, "by api:acme/web") {
		t.Errorf("the service was asked: %s", got)
	}
}
