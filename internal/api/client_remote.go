package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"mvm"
)

// DialRemote returns a client for the agent of another machine, at a URL like
// "https://node:7443". It connects at the first call, with the certificate and the
// trust of the configuration. It speaks HTTP/1.1, which Exec needs.
func DialRemote(to string, conf *tls.Config) (*Client, error) {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, mvm.Errorf(mvm.KindInvalid, "address of the remote agent %.200q is not https://HOST:PORT", to)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "7443")
	}
	conf = conf.Clone()
	conf.NextProtos = []string{"http/1.1"}
	d := &net.Dialer{Timeout: 10 * time.Second}
	return &Client{where: u.Host, base: "https://" + u.Host, remote: true, http: &http.Client{Transport: &http.Transport{
		DialContext: d.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second,
		TLSNextProto:       map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		DisableCompression: true, MaxIdleConns: 4, IdleConnTimeout: 10 * time.Second,
	}}}, nil
}

// explainRemote is explain for what only happens with an agent elsewhere; nil when it
// has nothing to say.
func (c *Client) explainRemote(ctx context.Context, err error) error {
	if !c.remote || ctx.Err() != nil {
		return nil
	}
	var ours *mvm.Error
	var cert *tls.CertificateVerificationError
	var name x509.HostnameError
	switch {
	case errors.As(err, &ours):
		return mvm.Errorf(ours.Kind, "talk to agent at %s: %w", c.where, err)
	case errors.As(err, &name):
		return mvm.Errorf(mvm.KindPolicy, "certificate of the agent at %s is not for that name: %w", c.where, err).
			WithFix("use a name from the certificate, or add this name on the node with `mvm agent certs rotate --host NAME`")
	case errors.As(err, &cert):
		return mvm.Errorf(mvm.KindPolicy, "the server at %s is not an agent that this client trusts: %w", c.where, err).
			WithFix("compare ca.pem with the node's. If the certificate has expired, run `mvm agent certs status` there, and compare the clocks")
	case strings.Contains(err.Error(), "remote error: tls: "):
		return mvm.Errorf(mvm.KindPolicy, "agent at %s refused this client's certificate: %w", c.where, err).
			WithFix("the agent's log has the reason; create a new certificate there with `mvm agent certs client`")
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), dialFailed(err):
		return mvm.Errorf(mvm.KindUnavailable, "agent not reachable at %s: %w", c.where, err).
			WithFix("check that the agent runs there with api_listen set, and that no firewall blocks the port")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return mvm.Errorf(mvm.KindUnavailable, "agent at %s ended the connection before it answered", c.where).
			WithFix("the agent was stopped, or this client's certificate was revoked or has expired; the request may have taken effect")
	}
	return nil
}

// dialFailed reports whether no connection came about at all.
func dialFailed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
