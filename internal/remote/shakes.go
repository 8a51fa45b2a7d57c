package remote

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Bounds of those who are not known yet.
const (
	maxHandshakes        = 128 // at once
	maxHandshakesPerAddr = 16  // of them from one address, or one IPv6 network of 64 bits
)

// shake is a handshake that is under way.
type shake struct {
	c    net.Conn
	from netip.Prefix
	done chan struct{} // closed when nothing works on it any more
}

// shakes are the handshakes under way. A newcomer always gets a place, if need be that
// of another who has not shown who he is: or else whoever takes all places and never
// finishes keeps everybody out.
type shakes struct {
	mu  sync.Mutex
	all []*shake // oldest first
}

// begin counts a handshake in. Whoever has to go for it has gone when it returns.
func (s *shakes) begin(c net.Conn) (h, dropped *shake) {
	h = &shake{c: c, from: groupOf(c.RemoteAddr()), done: make(chan struct{})}
	s.mu.Lock()
	if dropped = s.surplus(h.from); dropped != nil {
		s.remove(dropped)
	}
	s.all = append(s.all, h)
	s.mu.Unlock()
	if dropped != nil {
		_ = dropped.c.Close()
		<-dropped.done
	}
	return h, dropped
}

// surplus is the handshake that leaves its place to one from the group: the oldest of a
// group that has its share, and else, when all places are taken, the oldest of those
// groups that have the most.
func (s *shakes) surplus(from netip.Prefix) *shake {
	counts := map[netip.Prefix]int{}
	most := 0
	for _, h := range s.all {
		counts[h.from]++
		most = max(most, counts[h.from])
	}
	for _, h := range s.all {
		switch {
		case counts[from] >= maxHandshakesPerAddr && h.from == from,
			counts[from] < maxHandshakesPerAddr && len(s.all) >= maxHandshakes && counts[h.from] == most:
			return h
		}
	}
	return nil
}

// finish gives the place back, so that nobody takes it; it may be called again.
func (s *shakes) finish(h *shake) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(h)
}

func (s *shakes) remove(h *shake) {
	if i := slices.Index(s.all, h); i >= 0 {
		s.all = slices.Delete(s.all, i, i+1)
	}
}

// groupOf is whom an address is counted as: an IPv4 address for itself, and an IPv6
// address for the network of 64 bits, of which whoever has one address has all.
func groupOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return p
}
