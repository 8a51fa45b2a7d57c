// Package remote offers the agent's API to other machines: the handlers of package api
// over mutual TLS 1.3, for clients with a certificate of the node's CA.
//
// Whoever connects is hostile until the handshake has shown who it is: handshakes are
// bounded in time, in number and per address, and nothing of HTTP is read before. A
// newcomer takes the place of the oldest that has not finished, so that whoever takes all
// places keeps nobody out. Who is known is still bounded: connections and requests of all clients and of each, and
// requests per second. A certificate is looked at again at every request, and the
// connections of one that was revoked or has expired are closed within seconds.
package remote

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/pki"
)

// Options are what a Server is made of. Numbers that are 0 take the defaults.
type Options struct {
	// Listen is the address, "HOST:PORT" or ":PORT".
	Listen string
	Keeper *pki.Keeper
	Log    *slog.Logger
	// Rate is how many requests per second one client may make, and Burst how many at
	// once beyond it. Default 20 and 100.
	Rate, Burst int
	// Connections bounds the connections of all clients; default 256. One client has at
	// most a quarter of them.
	Connections int
	// Handshake bounds the time of a handshake; default 5 s.
	Handshake time.Duration
	// Linger bounds the time in which the rest of a request is read that was answered before
	// its end; default 5 s.
	Linger time.Duration
}

// Server is the API for other machines.
type Server struct {
	opt     Options
	ln      *listener
	clients *clients
	api     *api.Server // nil until Open
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// Listen binds the address. Nobody is answered until Open; the caller closes the
// server also when it was never opened.
func Listen(opt Options) (*Server, error) {
	for _, d := range []struct {
		v   *int
		def int
	}{{&opt.Rate, 20}, {&opt.Burst, 100}, {&opt.Connections, 256}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	opt.Handshake = cmp.Or(opt.Handshake, 5*time.Second)
	opt.Linger = cmp.Or(opt.Linger, 5*time.Second)
	tcp, err := net.Listen("tcp", opt.Listen)
	if err != nil {
		fix := "free the port or change api_listen"
		if errors.Is(err, fs.ErrPermission) {
			fix = "set api_listen to a port from 1024 on, or lower the sysctl net.ipv4.ip_unprivileged_port_start to it"
		}
		return nil, mvm.Errorf(mvm.KindUnavailable, "listen for remote clients on %s: %w", opt.Listen, err).WithFix("%s", fix)
	}
	return &Server{opt: opt, ln: newListener(tcp, opt), clients: newClients(opt.Rate, opt.Burst)}, nil
}

// Addr is the address that it listens on.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Open answers with the service from now on, until Close. cfg's Admit is set by it.
func (s *Server) Open(svc api.Service, cfg api.ServerConfig) {
	cfg.Admit = s.admit
	s.api = api.NewServer(svc, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.watch(ctx) })
	s.wg.Go(func() {
		if err := s.api.ServeAccepted(s.ln); err != nil {
			s.opt.Log.Error("serve remote clients", "error", err)
		}
	})
}

// Close stops taking requests, ends as api.Server.Close does, and waits for all that
// Open began.
func (s *Server) Close(ctx context.Context) error {
	if s.api == nil {
		return s.ln.Close()
	}
	err := errors.Join(s.api.Close(ctx), s.ln.Close())
	s.cancel()
	s.wg.Wait()
	return err
}

// admit says who asks: the certificate that the connection was made with must still be
// in force, and the client within its bounds.
func (s *Server) admit(r *http.Request) (api.Caller, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return api.Caller{}, mvm.Errorf(mvm.KindPolicy, "connection has no client certificate")
	}
	id, err := s.opt.Keeper.CheckClient(r.TLS.PeerCertificates[0])
	if err != nil {
		s.ln.counts.certificate.Add(1)
		return api.Caller{}, err
	}
	release, err := s.clients.enter(id.URI(), time.Now())
	if err != nil {
		s.ln.counts.rate.Add(1)
		return api.Caller{}, err
	}
	return api.Caller{Asker: id.Asker(), Tenant: id.Tenant, Release: release}, nil
}

// watchEvery is how soon the connections of a certificate that is not in force any
// more are closed.
const watchEvery = time.Second

// watch closes the connections, streams among them, of certificates that were revoked
// or have expired.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	seen := s.opt.Keeper.Generation()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := s.opt.Keeper.Generation()
		for _, c := range s.ln.open() {
			if now == seen && time.Now().Before(c.leaf.NotAfter) {
				continue
			}
			if _, err := s.opt.Keeper.CheckClient(c.leaf); err != nil {
				s.opt.Log.Warn("remote client cut off", "client", c.id.Short(), "from", c.from, "error", err)
				s.ln.counts.certificate.Add(1)
				c.raw.Cut()
			}
		}
		seen = now
	}
}
