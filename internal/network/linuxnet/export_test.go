package linuxnet

import "net/netip"

// CutWith has f called in place of what clears the guests' connections.
func (n *Network) CutWith(f func(guests map[netip.Addr]bool) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = f
}
