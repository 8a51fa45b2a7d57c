package metrics

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"mvm"
)

// Bounds of what the server takes: whoever reaches the port is not known.
const (
	maxConns   = 16
	maxScrapes = 4 // at once; more get status 503
	maxHeader  = 16 << 10
	readTime   = 5 * time.Second
	writeTime  = 15 * time.Second
	idleTime   = 2 * time.Minute
)

// Handler answers a scrape.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: writeTime / 2,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)})
}

// Server serves the figures on a listener.
type Server struct {
	http *http.Server
	addr net.Addr
	done chan error
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.addr }

// Serve answers GET /metrics, and nothing else, on the TCP address until Close, to who
// shows the token.
func (m *Metrics) Serve(addr, token string, log *slog.Logger) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "listen for scrapes on %s: %w", addr, err).
			WithFix("set metrics_listen to another address, or remove it")
	}
	return serve(ln, withToken(token, m.Handler(log)), log), nil
}

// ServeOn does so on a Unix socket, whose file says who may connect. It closes ln.
func (m *Metrics) ServeOn(ln net.Listener, log *slog.Logger) *Server {
	return serve(ln, m.Handler(log), log)
}

// withToken refuses who does not show the token. An empty token lets nobody in.
func withToken(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte("Bearer " + token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if token == "" || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="mvm metrics"`)
			http.Error(w, "send the token of metrics.token in the agent's data dir: Authorization: Bearer TOKEN", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func serve(ln net.Listener, h http.Handler, log *slog.Logger) *Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	s := &Server{addr: ln.Addr(), done: make(chan error, 1), http: &http.Server{Handler: mux, ReadTimeout: readTime, ReadHeaderTimeout: readTime,
		WriteTimeout: writeTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}}
	go func() { s.done <- s.http.Serve(netutil.LimitListener(ln, maxConns)) }()
	log.Info("metrics are served", "address", ln.Addr().String())
	return s
}

// Close ends the serving, scrapes under way a second later at most, and waits for it.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	if e := <-s.done; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}
