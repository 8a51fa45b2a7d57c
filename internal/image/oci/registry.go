package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"mvm"
	"mvm/internal/publicnet"
)

const (
	dialTimeout = 15 * time.Second
	// stall is how long a registry may send nothing.
	stall = time.Minute
	// describeTimeout bounds reading all of an image but its layers.
	describeTimeout = 2 * time.Minute
)

// parseRef reads a reference that names its registry: none is assumed.
func parseRef(ref string) (name.Reference, error) {
	host, _, ok := strings.Cut(ref, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return nil, mvm.Errorf(mvm.KindInvalid, "image oci:%s: it names no registry", ref).
			WithFix("write the registry's host too, such as oci:registry.example.com/team/app:1.2")
	}
	r, err := name.ParseReference(ref, name.StrictValidation, name.WithDefaultTag("latest"))
	if err != nil {
		r, err = name.ParseReference(ref)
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "image oci:%s: %w", ref, err).
			WithFix("write it as oci:HOST/NAME:TAG or oci:HOST/NAME@sha256:DIGEST")
	}
	return r, nil
}

// registry is an image in a registry.
type registry struct {
	ref  name.Reference
	meta http.RoundTripper // for what is small
	data http.RoundTripper
	auth authn.Authenticator
}

var _ source = registry{}

func openRegistry(ref string, o Options) (source, error) {
	r, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	auth, err := credentials(o.Credentials, r.Context().RegistryStr())
	if err != nil {
		return nil, err
	}
	t := newTransport(o.PrivateRegistries)
	return registry{ref: r, meta: small{t}, data: t, auth: auth}, nil
}

// newTransport connects to public addresses, and to others only for the hosts that the
// operator allows.
func newTransport(private []string) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial(private),
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  stall,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        10 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
}

// dial checks the address that a name was resolved to, in the moment in which it connects
// to it: a name can lead elsewhere from one look-up to the next.
func dial(private []string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout}
		if !allowed(private, addr) {
			d.Control = func(_, resolved string, _ syscall.RawConn) error { return checkPublic(addr, resolved) }
		}
		return d.DialContext(ctx, network, addr)
	}
}

// allowed reports whether the operator lists the host, with or without the port.
func allowed(private []string, addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && (slices.Contains(private, addr) || slices.Contains(private, host))
}

func checkPublic(addr, resolved string) error {
	ap, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return err
	}
	ip := ap.Addr().Unmap()
	if publicnet.Has(ip) {
		return nil
	}
	return mvm.Errorf(mvm.KindPolicy, "connect to %s: %s is not a public address", addr, ip).
		WithFix("if it is your registry, add %q to private_registries in agent.toml, and restart the agent", addr)
}

// small ends answers that are larger than a manifest may be.
type small struct{ next http.RoundTripper }

func (s small) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = limited{&io.LimitedReader{R: resp.Body, N: maxManifest + 1}, resp.Body}
	return resp, nil
}

type limited struct {
	*io.LimitedReader
	io.Closer
}

func (l limited) Read(p []byte) (int, error) {
	n, err := l.LimitedReader.Read(p)
	if l.N <= 0 {
		return n, fmt.Errorf("the answer has more than %d bytes", maxManifest)
	}
	return n, err
}

func (r registry) options(ctx context.Context, t http.RoundTripper) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(t), remote.WithAuth(r.auth), remote.WithUserAgent("mvm")}
}

func (r registry) top(ctx context.Context) ([]byte, *pulled, error) {
	raw, err := r.get(ctx, r.ref)
	return raw, nil, err
}

func (r registry) get(ctx context.Context, ref name.Reference) ([]byte, error) {
	d, err := remote.Get(ref, r.options(ctx, r.meta)...)
	if err != nil {
		return nil, r.explain(err)
	}
	if dg, ok := ref.(name.Digest); ok && digestOf(d.Manifest) != dg.DigestStr() {
		return nil, invalid("the manifest is %s, asked for was %s", digestOf(d.Manifest), dg.DigestStr())
	}
	return d.Manifest, nil
}

func (r registry) manifest(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	return r.get(ctx, r.ref.Context().Digest(d.Digest.String()))
}

func (r registry) blob(ctx context.Context, l layer) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	blob, err := remote.Layer(r.ref.Context().Digest(l.Digest.String()), r.options(ctx, r.data)...)
	if err == nil {
		var body io.ReadCloser
		if body, err = blob.Compressed(); err == nil {
			return newWatched(body, cancel), nil
		}
	}
	err = r.explain(err)
	cancel(err)
	return nil, err
}

func (r registry) Close() error {
	if t, ok := r.data.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
	return nil
}

// explain says what kind of error a registry's answer is.
func (r registry) explain(err error) error {
	host := r.ref.Context().RegistryStr()
	var own *mvm.Error
	if errors.As(err, &own) {
		return own
	}
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return mvm.Errorf(mvm.KindUnavailable, "ask registry %s: %w", host, err).WithFix("check the network and the registry, then build again")
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return mvm.Errorf(mvm.KindPolicy, "registry %s refuses %s: %w", host, r.ref.Context().RepositoryStr(), answer).
			WithFix("log in with docker login %s, and set registry_credentials in agent.toml to the path of docker's config.json", host)
	case http.StatusNotFound:
		return mvm.Errorf(mvm.KindNotFound, "registry %s has no %s: %w", host, r.ref.Identifier(), answer).WithFix("check the name and the tag")
	case http.StatusTooManyRequests:
		return mvm.Errorf(mvm.KindUnavailable, "registry %s takes no more requests for now: %w", host, answer).WithFix("wait, or log in to the registry")
	}
	if answer.StatusCode >= 500 || answer.Temporary() {
		return mvm.Errorf(mvm.KindUnavailable, "ask registry %s: %w", host, answer).WithFix("build again when the registry works")
	}
	return mvm.Errorf(mvm.KindInvalid, "ask registry %s: %w", host, answer)
}

// watched ends a body from which nothing comes for too long.
type watched struct {
	io.ReadCloser
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func newWatched(body io.ReadCloser, cancel context.CancelCauseFunc) *watched {
	return &watched{body, time.AfterFunc(stall, func() {
		cancel(mvm.Errorf(mvm.KindUnavailable, "the registry sent nothing for %s", stall).WithFix("build again"))
	}), cancel}
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.timer.Reset(stall)
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	err := w.ReadCloser.Close()
	w.cancel(nil)
	return err
}

// at is the registry's image of that digest, whatever the tag is by now.
func (r registry) at(digest string) registry {
	r.ref = r.ref.Context().Digest(digest)
	return r
}
