package metrics

import (
	"context"
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

// Serve answers GET /metrics, and nothing else, on the address until Close.
func (m *Metrics) Serve(addr string, log *slog.Logger) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "listen for scrapes on %s: %w", addr, err).
			WithFix("set metrics_listen to another address, or remove it")
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler(log))
	s := &Server{addr: ln.Addr(), done: make(chan error, 1), http: &http.Server{Handler: mux, ReadTimeout: readTime, ReadHeaderTimeout: readTime,
		WriteTimeout: writeTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}}
	go func() { s.done <- s.http.Serve(netutil.LimitListener(ln, maxConns)) }()
	log.Info("metrics are served", "address", ln.Addr().String())
	return s, nil
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
