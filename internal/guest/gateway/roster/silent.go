package roster

import (
	"mvm/internal/guest/gateway/group"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The host's word is how a gateway learns that an instance is gone. Where there is none
// (the agent is away, or the VMM stands still and counts as running), the kernel's is
// taken, while the instance is to be awake: what was sent and not acknowledged for
// Limits.Silent ends the connection, and one on which nothing is sent is probed. An
// instance that sleeps acknowledges nothing, so of its connections nothing is wanted.

// probes find out within a minute about a connection on which nothing is sent.
var probes = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}

// probe has the kernel probe the connection, or not.
func (c *gatedConn) probe(on bool) {
	if tcp, ok := c.Conn.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		cfg := probes
		cfg.Enable = on
		_ = tcp.SetKeepAliveConfig(cfg)
	}
}

// probe is for all connections to the worker. ro.mu is held.
func (w *worker) probe(on bool) {
	for c := range w.conns {
		c.probe(on)
	}
}

// unacknowledged reports whether the kernel sends again what was not acknowledged.
func (c *gatedConn) unacknowledged() (again bool) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		again = err == nil && (info.Retransmits > 0 || info.Probes > 0)
	})
	return again
}

// watchSilence ends connections to instances that acknowledge nothing. It runs while
// something was sent lately.
func (ro *Roster) watchSilence() {
	since := map[*gatedConn]time.Duration{} // when it was seen to be unacknowledged
	for {
		select {
		case <-ro.sending:
		case <-ro.ctx.Done():
			return
		}
		for more := true; more; {
			if !group.Pause(ro.ctx, ro.lim.Silent/4) {
				return
			}
			var silent []*gatedConn
			silent, more = ro.findSilent(since)
			for _, c := range silent {
				ro.log.Info("instance acknowledges nothing", "instance", c.w.id)
				c.Cut()
			}
		}
	}
}

// findSilent returns the connections whose instance has been silent for too long, and
// whether something may become so without anything being sent.
func (ro *Roster) findSilent(since map[*gatedConn]time.Duration) (silent []*gatedConn, more bool) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	now, seen := ro.mono(), map[*gatedConn]bool{}
	for _, w := range ro.workers {
		if w.backend == nil {
			continue
		}
		for c := range w.conns {
			if now-time.Duration(c.sent.Load()) < ro.lim.Silent {
				more = true
			}
			if !c.unacknowledged() {
				continue
			}
			more, seen[c] = true, true
			if _, was := since[c]; !was {
				since[c] = now
			}
			if now-since[c] >= ro.lim.Silent {
				silent = append(silent, c)
			}
		}
	}
	for c := range since {
		if !seen[c] {
			delete(since, c)
		}
	}
	return silent, more
}
