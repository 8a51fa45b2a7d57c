package remote_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/pki"
	"mvm/internal/remote"
	"mvm/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

// service is what the node offers: tenants acme and other with an instance each, and
// streams that go on until they are stopped. Everything else it does not have.
type service struct {
	api.Service
	mu    sync.Mutex
	calls []string
	each  chan mvm.Event // what a stream sends
	ended chan error     // how it ended
	takes time.Duration  // to list the tenants
}

func (s *service) note(ctx context.Context, call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call+" by "+mvm.AskerFrom(ctx).String())
}

func (s *service) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.calls, "; ")
}

func (s *service) Tenants(ctx context.Context) ([]mvm.Tenant, error) {
	s.note(ctx, "Tenants")
	time.Sleep(s.takes)
	return []mvm.Tenant{{ID: "acme"}, {ID: "other"}}, nil
}

func (s *service) Tenant(ctx context.Context, id string) (mvm.Tenant, mvm.Usage, error) {
	s.note(ctx, "Tenant "+id)
	return mvm.Tenant{ID: id}, mvm.Usage{}, nil
}

func (s *service) CreateTenant(ctx context.Context, spec mvm.TenantSpec) (mvm.Tenant, error) {
	s.note(ctx, "CreateTenant")
	return mvm.Tenant{ID: spec.ID}, nil
}

func (s *service) Instance(ctx context.Context, addr mvm.Address) (mvm.Instance, error) {
	s.note(ctx, "Instance")
	tenant := map[string]string{"i-00000001": "acme", "i-00000002": "other"}[addr.Instance]
	if tenant == "" {
		return mvm.Instance{}, mvm.Errorf(mvm.KindNotFound, "no instance %s", addr.Instance)
	}
	return mvm.Instance{ID: addr.Instance, Tenant: tenant, Pool: "w"}, nil
}

func (s *service) Exec(ctx context.Context, _ mvm.Address, spec mvm.ExecSpec, streams mvm.ExecIO) (int, error) {
	s.note(ctx, "Exec "+strings.Join(spec.Argv, " "))
	_, err := io.Copy(streams.Stdout, streams.Stdin)
	return 7, err
}

func (s *service) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	s.note(ctx, "Events")
	for {
		select {
		case e := <-s.each:
			if err := each(e); err != nil {
				s.ended <- err
				return err
			}
		case <-ctx.Done():
			s.ended <- context.Cause(ctx)
			return ctx.Err()
		}
	}
}

// node is a node that serves remote clients.
type node struct {
	t    *testing.T
	dir  *pki.Dir
	path string
	addr string
	svc  *service
	log  *syncBuffer
	k    *pki.Keeper
	srv  *remote.Server
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newDir(t *testing.T) (*pki.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "certs")
	d := pki.At(path, "mvm")
	if _, err := d.Init(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.RotateNode("n1", []string{"127.0.0.1", "node.example"}, day, time.Now()); err != nil {
		t.Fatal(err)
	}
	return d, path
}

func start(t *testing.T, opt remote.Options, cfg api.ServerConfig) *node {
	t.Helper()
	n := &node{t: t, log: &syncBuffer{}, svc: &service{each: make(chan mvm.Event), ended: make(chan error, 64)}}
	n.dir, n.path = newDir(t)
	log := slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.k = pki.NewKeeper(n.dir, day, log)
	if err := n.k.Open(); err != nil {
		t.Fatal(err)
	}
	opt.Listen, opt.Keeper, opt.Log, cfg.Log = "127.0.0.1:0", n.k, log, log
	srv, err := remote.Listen(opt)
	if err != nil {
		t.Fatal(err)
	}
	n.addr, n.srv = srv.Addr(), srv
	srv.Open(n.svc, cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testenv.Patience)
		defer cancel()
		if err := errors.Join(srv.Close(ctx), n.k.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

// bundle makes a client's folder.
func (n *node) bundle(name, tenant string, life time.Duration) string {
	n.t.Helper()
	cert, key, _, err := n.dir.NewClient(name, tenant, life, time.Now())
	if err != nil {
		n.t.Fatal(err)
	}
	return bundle(n.t, n.path, cert, key)
}

func bundle(t *testing.T, caDir string, cert, key []byte) string {
	t.Helper()
	dir := t.TempDir()
	ca, err := os.ReadFile(filepath.Join(caDir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{pki.ClientCA: ca, pki.ClientCert: cert, pki.ClientKey: key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func conf(t *testing.T, dir string) *tls.Config {
	t.Helper()
	c, err := pki.ClientTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (n *node) dial(dir string) *api.Client {
	n.t.Helper()
	c, err := api.DialRemote("https://"+n.addr, conf(n.t, dir))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(c.Close)
	return c
}

// client is a client with a new certificate.
func (n *node) client(name, tenant string) *api.Client { return n.dial(n.bundle(name, tenant, day)) }

// web is an ordinary HTTP client with the certificate in the folder.
func (n *node) web(dir string, h2 bool) *http.Client {
	tr := &http.Transport{TLSClientConfig: conf(n.t, dir), ForceAttemptHTTP2: h2}
	n.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually tries until there is no error, for a bounded time.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still, after 20 s: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stream follows the events and tells of each, and how it ended.
func (n *node) stream(c *api.Client) (got chan uint64, end chan error) {
	got, end = make(chan uint64, 16), make(chan error, 1)
	go func() {
		end <- c.Events(ctxOf(n.t), mvm.EventFilter{Follow: true}, func(e mvm.Event) error { got <- e.Seq; return nil })
	}()
	return got, end
}

// send makes the stream send an event, and waits until it came.
func (n *node) send(seq uint64, got chan uint64) {
	n.t.Helper()
	select {
	case n.svc.each <- mvm.Event{Seq: seq, Tenant: "acme"}:
	case <-time.After(20 * time.Second):
		n.t.Fatal("nobody streams")
	}
	select {
	case g := <-got:
		if g != seq {
			n.t.Fatalf("event %d came, want %d", g, seq)
		}
	case <-time.After(20 * time.Second):
		n.t.Fatalf("event %d does not come", seq)
	}
}

func body(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		return "ERROR " + err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "ERROR " + err.Error()
	}
	return fmt.Sprintf("%s %d %s", resp.Proto, resp.StatusCode, b)
}
