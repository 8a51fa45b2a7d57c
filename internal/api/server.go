package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"mvm/internal/api/peer"
	"mvm/internal/api/socket"
	"net"
	"net/http"
	"sync"
	"time"

	"mvm"
)

// Server offers a Service on a unix socket as HTTP/1.1 with JSON.
//
// An operation that changes something goes on when its client hangs up: once
// accepted it belongs to the agent, and only waiting for it ends. What is work on
// behalf of one waiting client (Apply, BuildPool, NetVerify, Exec, Logs, Events)
// gets a context that ends with the client.
type Server struct {
	service Service
	admit   func(r *http.Request) (Caller, error)
	version Version
	log     *slog.Logger
	http    *http.Server
	slots   chan struct{}
	count   func(route, result string, took time.Duration)
	origins []string
	// readsHost is ServerConfig.ReadsHost.
	readsHost func(ref string) bool

	bodyTimeout, writeTimeout time.Duration

	base   context.Context // ends when operations must give up
	abort  context.CancelCauseFunc
	watch  context.Context // ends when Close begins: watchers leave
	leave  context.CancelCauseFunc
	mu     sync.Mutex
	closed bool
	busy   sync.WaitGroup
}

// ServerConfig says how a Server behaves.
type ServerConfig struct {
	// Admit says who asks, or why it is refused. nil: the peer of the unix socket as
	// the kernel names it, with Group the gid whose members are let in beside root;
	// negative: nobody else.
	Admit   func(r *http.Request) (Caller, error)
	Group   int
	Version Version
	Log     *slog.Logger
	// ReadsHost reports whether building an image reference may read files of the host, so
	// that no tenant's client may name it. nil: any reference may.
	ReadsHost func(ref string) bool
	// Origins are those whose pages may send requests from browsers, beside pages of the
	// server itself: "https://console.example".
	Origins []string
	// MaxInFlight bounds requests at once; 0 means MaxInFlight.
	MaxInFlight int
	// HeaderTimeout bounds the reading of a request's header, BodyTimeout that of its
	// body, and WriteTimeout how long a client may take to read an answer, or one line
	// of a stream. 0 means 5 s, 10 s and 30 s.
	HeaderTimeout, BodyTimeout, WriteTimeout time.Duration
	// Count is told of every request at its end: the pattern of its route, and "ok" or
	// the kind of its error. It may be nil.
	Count func(route, result string, took time.Duration)
}

// NewServer returns a server that does nothing until Serve.
func NewServer(svc Service, cfg ServerConfig) *Server {
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = MaxInFlight
	}
	cfg.HeaderTimeout = cmp.Or(cfg.HeaderTimeout, headerTimeout)
	cfg.BodyTimeout = cmp.Or(cfg.BodyTimeout, bodyTimeout)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, writeTimeout)
	if cfg.Count == nil {
		cfg.Count = func(string, string, time.Duration) {}
	}
	if cfg.ReadsHost == nil {
		cfg.ReadsHost = func(string) bool { return true }
	}
	cfg.Version.API = APIVersion
	if cfg.Admit == nil {
		cfg.Admit = admitPeer(cfg.Group)
	}
	s := &Server{service: svc, admit: cfg.Admit, bodyTimeout: cfg.BodyTimeout, writeTimeout: cfg.WriteTimeout, version: cfg.Version, log: cfg.Log, count: cfg.Count, readsHost: cfg.ReadsHost, origins: cfg.Origins,
		slots: make(chan struct{}, cfg.MaxInFlight)}
	s.base, s.abort = context.WithCancelCause(context.Background())
	s.watch, s.leave = context.WithCancelCause(s.base)
	mux := s.mux()
	s.http = &http.Server{
		Handler:           s.observe(mux, s.guard(mux)),
		ReadHeaderTimeout: cfg.HeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPeer,
		Protocols:         protocols(),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: idleTimeout, PingTimeout: headerTimeout, WriteByteTimeout: cfg.WriteTimeout},
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// protocols are HTTP/1.1 and, over TLS where both sides agree on it, HTTP/2.
func protocols() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	return &p
}

// Serve answers on the listener until Close, and then returns nil. Without Admit in the
// config the listener must be of unix sockets: the kernel says who asks.
func (s *Server) Serve(ln net.Listener) error {
	return s.ServeAccepted(&boundedListener{Listener: ln, slots: make(chan struct{}, cap(s.slots)*2)})
}

// ServeAccepted is Serve for a listener that bounds its connections itself. Those of TLS
// must have their handshake behind them; they may speak HTTP/2, if that was agreed.
func (s *Server) ServeAccepted(ln net.Listener) error {
	err := s.http.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return mvm.Errorf(mvm.KindInternal, "serve API: %w", err)
}

// Close stops taking requests, sends watchers away, waits for the operations under
// way until the context ends, then cancels them and waits for their handlers.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.leave(shutsDown())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.busy.Wait()
	}()
	err := s.http.Shutdown(ctx)
	select {
	case <-done:
	case <-ctx.Done():
		s.abort(shutsDown())
		<-done
	}
	s.abort(shutsDown())
	return errors.Join(ignoreDeadline(err), s.http.Close())
}

// shutsDown is why requests end with the server.
func shutsDown() *mvm.Error {
	return mvm.Away("agent shuts down").WithFix("try again when an agent runs; it continues what was stored")
}

func ignoreDeadline(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// enter counts a request in, unless the server is closing.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.busy.Add(1)
	return true
}

// guard lets in who may use the API, as many at once as there are slots.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetWriteDeadline(time.Time{}) // not that of an earlier request: to think may take long, only to write may not
		defer func() { _ = rc.SetWriteDeadline(time.Now().Add(s.writeTimeout)) }()
		if !s.enter() {
			s.fail(w, r, shutsDown())
			return
		}
		defer s.busy.Done()
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			s.fail(w, r, mvm.Away("agent has %d requests under way", cap(s.slots)).WithFix("try again"))
			return
		}
		if err := socket.CheckOrigin(r, s.origins); err != nil {
			s.fail(w, r, err)
			return
		}
		caller, err := s.admit(r)
		if err != nil {
			if mvm.IsKind(err, mvm.KindPolicy) {
				w.Header().Set("Connection", "close")
			}
			s.fail(w, r, err)
			return
		}
		if caller.Release != nil {
			defer caller.Release()
		}
		next.ServeHTTP(w, r.WithContext(withCaller(r.Context(), caller)))
	})
}

// svc is the Service as the caller may use it.
func (s *Server) svc(ctx context.Context) Service {
	if c := CallerFrom(ctx); c.Tenant != "" {
		return &scope{svc: s.service, caller: c, readsHost: s.readsHost}
	}
	return s.service
}

// admitPeer admits peers of a unix socket; each is an operator.
func admitPeer(group int) func(r *http.Request) (Caller, error) {
	return func(r *http.Request) (Caller, error) {
		p, err := peerFrom(r.Context())
		if err == nil && !p.Allowed(group) {
			err = p.Refusal(group)
		}
		if err != nil {
			return Caller{}, err
		}
		return Caller{Asker: p.Asker()}, nil
	}
}

type peerKey struct{}

type peerResult struct {
	peer peer.Peer
	err  error
}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	var res peerResult
	if b, ok := c.(*boundedConn); ok {
		c = b.Conn
	}
	if u, ok := c.(*net.UnixConn); ok {
		res.peer, res.err = peer.Of(u)
	} else {
		res.err = mvm.Errorf(mvm.KindPolicy, "connection is not a unix socket, so its user is unknown")
	}
	return context.WithValue(ctx, peerKey{}, res)
}

func peerFrom(ctx context.Context) (peer.Peer, error) {
	res, ok := ctx.Value(peerKey{}).(peerResult)
	if !ok {
		return peer.Peer{}, mvm.Errorf(mvm.KindPolicy, "connection has no peer credentials")
	}
	return res.peer, res.err
}

// boundedListener holds at most cap(slots) connections open; more wait in the backlog.
type boundedListener struct {
	net.Listener
	slots chan struct{}
	once  sync.Once
	done  chan struct{}
}

type boundedConn struct {
	net.Conn
	release func()
}

func (l *boundedListener) closing() chan struct{} {
	l.once.Do(func() { l.done = make(chan struct{}) })
	return l.done
}

// Accept waits for a slot and then for a connection.
func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closing():
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &boundedConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close ends Accept.
func (l *boundedListener) Close() error {
	done := l.closing()
	select {
	case <-done:
	default:
		close(done)
	}
	return l.Listener.Close()
}

// Close gives the slot back.
func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
