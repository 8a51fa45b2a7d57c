package publish

import (
	"net"
	"net/netip"
	"slices"
)

// Keeper holds open what a Publisher listens on, while the process that the Publisher is
// in ends and another begins: clients that connect meanwhile wait for it. It must be safe
// for concurrent use.
type Keeper interface {
	// Keep holds the listener open beside the Publisher, under its address as it is given.
	Keep(at netip.AddrPort, l *net.TCPListener) error
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
	want := b.Publish.Host
	if want.Port() == 0 {
		want = netip.AddrPortFrom(want.Addr(), b.Bound.Port())
	}
	for at, l := range p.kept {
		if at == want || at.Port() == want.Port() && at.Addr().IsUnspecified() && want.Addr().IsUnspecified() {
			delete(p.kept, at) // all of IPv4 is opened as all of both
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
		if err := p.keeper.Keep(addrOfListener(l), l); err != nil {
			p.log.Warn("a port that is published will be closed while the agent restarts", "host", addrOfListener(l), "error", err)
		}
	}
	return l, err
}

// forget has the keeper close what is no longer published. What it could not be told is
// said again at the next Apply.
func (p *Publisher) forget() {
	if p.keeper == nil {
		return
	}
	p.owed = slices.DeleteFunc(p.owed, func(at netip.AddrPort) bool {
		err := p.keeper.Forget(at)
		if err != nil {
			p.log.Warn("a port that is no longer published stays open for now", "host", at, "error", err)
		}
		return err == nil
	})
}

// dropUnclaimed closes what was kept and is published no more.
func (p *Publisher) dropUnclaimed() {
	for at, l := range p.kept {
		_ = l.Close()
		p.owed = append(p.owed, at)
	}
	clear(p.kept)
}
