package remote

import "sync/atomic"

// Figures are what an operator wants to know of a Server.
type Figures struct {
	Connections int
	// Refused counts, since the start, by why: "handshake" (no TLS, no certificate or one
	// that is not in force, too slow, too many), "connections" (too many), "certificate" (not in
	// force any more, on an established connection), "rate" (too many requests).
	Refused map[string]uint64
}

type counts struct{ handshake, connections, certificate, rate atomic.Uint64 }

// Figures may be called at any time.
func (s *Server) Figures() Figures {
	c := &s.ln.counts
	return Figures{Connections: len(s.ln.open()), Refused: map[string]uint64{"handshake": c.handshake.Load(),
		"connections": c.connections.Load(), "certificate": c.certificate.Load(), "rate": c.rate.Load()}}
}
