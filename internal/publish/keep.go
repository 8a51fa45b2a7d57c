package publish

import (
	"net"
	"net/netip"
)

// Keeper holds open what a Publisher listens on, while the process that the Publisher is
// in ends and another begins: clients that connect meanwhile wait for it. It must be safe
// for concurrent use.
type Keeper interface {
	// Keep holds the listener open beside the Publisher, under its address.
	Keep(l *net.TCPListener) error
	// Forget closes what is held of the address. When it returns the address is free,
	// unless there is an error.
	Forget(addr netip.AddrPort) error
}

// addrOfListener is the address that it listens on.
func addrOfListener(l *net.TCPListener) netip.AddrPort {
	at := l.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// take returns a listener that was kept for the binding, nil where there is none.
func (p *Publisher) take(b Binding) *net.TCPListener {
	for _, at := range []netip.AddrPort{b.Publish.Host, b.Bound} {
		if l := p.kept[at]; l != nil && at.Addr() == b.Publish.Host.Addr() && (b.Publish.Host.Port() == 0 || at == b.Publish.Host) {
			delete(p.kept, at)
			return l
		}
	}
	return nil
}

// listenKept opens the binding's address, or takes over what was kept of it.
func (p *Publisher) listenKept(b Binding) (*net.TCPListener, error) {
	if l := p.take(b); l != nil {
		return l, nil
	}
	l, err := listen(b)
	if err == nil && p.keeper != nil {
		if err := p.keeper.Keep(l); err != nil {
			p.log.Warn("a port that is published will be closed while the agent restarts", "host", addrOfListener(l), "error", err)
		}
	}
	return l, err
}

// forget closes what is kept of the address, which is no longer published.
func (p *Publisher) forget(at netip.AddrPort) {
	if p.keeper == nil {
		return
	}
	if err := p.keeper.Forget(at); err != nil {
		p.log.Warn("a port that is no longer published may stay open until the agent is stopped", "host", at, "error", err)
	}
}

// forgetUnclaimed closes what was kept and is published no more.
func (p *Publisher) forgetUnclaimed() {
	for at, l := range p.kept {
		_ = l.Close()
		p.forget(at)
	}
	clear(p.kept)
}
