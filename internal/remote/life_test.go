package remote_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/remote"
)

// served returns the serial number of the certificate that the node shows.
func (n *node) served(dir string) string {
	n.t.Helper()
	c, err := tls.Dial("tcp", n.addr, conf(n.t, dir))
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	return hex.EncodeToString(c.ConnectionState().PeerCertificates[0].SerialNumber.Bytes())
}

// A rotation needs no restart: new connections see the new certificate, and what is
// established goes on.
func TestRotationKeepsStreams(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	dir := n.bundle("laptop", "", day)
	got, end := n.stream(n.dial(dir))
	n.send(1, got)
	before := n.served(dir)
	info, err := n.dir.RotateNode("", nil, day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if after := n.served(dir); after == before || after != info.Serial {
		t.Errorf("the node shows %s, had %s, want %s", after, before, info.Serial)
	}
	n.send(2, got)
	select {
	case err := <-end:
		t.Errorf("the stream ended: %v", err)
	default:
	}
}

// cutOff waits until a stream ends, long before its client would end it.
func cutOff(t *testing.T, end chan error) {
	t.Helper()
	select {
	case err := <-end:
		if err == nil {
			t.Error("the stream ended as if it was whole")
		}
	case <-time.After(15 * time.Second):
		t.Error("the stream goes on")
	}
}

// A revocation ends what the client has: its next request on an established
// connection, and its streams; those of others go on.
func TestRevokedOnAnEstablishedConnection(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	stolen := n.bundle("stolen", "", day)
	c := n.dial(stolen)
	if _, err := c.Tenants(ctxOf(t)); err != nil {
		t.Fatal(err)
	}
	got, end := n.stream(n.dial(stolen))
	n.send(1, got)
	if _, err := n.dir.Revoke("client/stolen", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tenants(ctxOf(t)); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("the next request: %v", err)
	}
	cutOff(t, end)
	<-n.svc.ended
	if asked := n.svc.asked(); strings.Count(asked, "Tenants") != 1 {
		t.Errorf("the service was asked %s", asked)
	}
	other := n.client("other", "")
	if _, err := other.Tenants(ctxOf(t)); err != nil {
		t.Errorf("another client: %v", err)
	}
}

func TestRevokedOverHTTP2(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	web := n.web(n.bundle("stolen", "", day), true)
	if got := get(t, web, n, "/v1/tenants"); !strings.HasPrefix(got, "HTTP/2.0 200") {
		t.Fatal(got)
	}
	if _, err := n.dir.Revoke("client/stolen", time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, web, n, "/v1/tenants"); !strings.HasPrefix(got, "HTTP/2.0 403") || !strings.Contains(got, "is revoked") {
		t.Errorf("on the connection that it has: %s", got)
	}
	if got := get(t, web, n, "/v1/tenants"); !strings.HasPrefix(got, "ERROR") {
		t.Errorf("on a new connection: %s", got)
	}
}

// A certificate that expires while its connection lives ends it.
func TestExpiresOnAnEstablishedConnection(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	dir := n.bundle("brief", "", 3*time.Second)
	c := n.dial(dir)
	if _, err := c.Tenants(ctxOf(t)); err != nil {
		t.Fatal(err)
	}
	got, end := n.stream(n.dial(dir))
	n.send(1, got)
	cutOff(t, end)
	<-n.svc.ended
	if _, err := c.Tenants(ctxOf(t)); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("a request after the end: %v", err)
	}
}

// When the node's own certificate is over, a client says so.
func TestNodeCertificateOver(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	dir := n.bundle("laptop", "", day)
	if _, err := n.dir.RotateNode("", nil, time.Nanosecond, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	_, err := n.dial(dir).Tenants(ctxOf(t))
	var cert *tls.CertificateVerificationError
	if !mvm.IsKind(err, mvm.KindPolicy) || !errors.As(err, &cert) || !strings.Contains(err.Error(), "mvm agent certs status") {
		t.Errorf("got %v", err)
	}
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("got %v, want it expired", err)
	}
}

func get(t *testing.T, c *http.Client, n *node, path string) string {
	t.Helper()
	resp, err := c.Get("https://" + n.addr + path)
	return body(t, resp, err)
}

// An ordinary HTTP client can ask, with HTTP/1.1 and HTTP/2; exec needs the former.
func TestBothVersionsOfHTTP(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	dir := n.bundle("laptop", "", day)
	for h2, proto := range map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"} {
		web := n.web(dir, h2)
		if got := get(t, web, n, "/v1/tenants/acme"); !strings.HasPrefix(got, proto+" 200") || !strings.Contains(got, `"id":"acme"`) {
			t.Errorf("%s: %s", proto, got)
		}
		stream, err := web.Get("https://" + n.addr + "/v1/events?follow=true")
		if err != nil {
			t.Fatal(err)
		}
		n.svc.each <- mvm.Event{Seq: 5}
		var line [512]byte
		k, err := stream.Body.Read(line[:])
		if !strings.Contains(string(line[:k]), `"seq":5`) || stream.Proto != proto {
			t.Errorf("%s: stream has %s, %v", stream.Proto, line[:k], err)
		}
		_ = stream.Body.Close()
		<-n.svc.ended
		resp, err := web.Get("https://" + n.addr + "/v1/instances/i-00000001/exec")
		if got := body(t, resp, err); !strings.HasPrefix(got, proto+" 400") {
			t.Errorf("exec without an upgrade: %s", got)
		}
	}
	var out bytes.Buffer
	code, err := n.dial(dir).Exec(ctxOf(t), mvm.Address{Instance: "i-00000001"}, mvm.ExecSpec{Argv: []string{"cat"}},
		mvm.ExecIO{Stdin: strings.NewReader(strings.Repeat("over TLS ", 20_000)), Stdout: &out})
	if err != nil || code != 7 || out.Len() != 180_000 {
		t.Errorf("exec: %d, %v, %d bytes", code, err, out.Len())
	}
	if asked := n.svc.asked(); !strings.Contains(asked, "by api:laptop") {
		t.Errorf("the service was asked %s", asked)
	}
}

// Close sends watchers away and leaves nobody behind (the leak check is TestMain's).
func TestCloseWithClientsConnected(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	for k := range 3 {
		got, _ := n.stream(n.client(fmt.Sprint("c", k), ""))
		n.send(uint64(k+1), got)
		break // one stream; the others only connect
	}
	c, err := tls.Dial("tcp", n.addr, conf(t, n.bundle("idle", "", day)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}
