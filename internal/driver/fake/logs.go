package fake

import (
	"context"
	"math"
	"net"
	"slices"

	"mvm/internal/guestproto"
)

// wake tells waiters that the guest's log grew.
func (m *machine) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cond.Broadcast()
}

// logs sends the guest's log, and what is added when it is to follow.
func (m *machine) logs(conn net.Conn, spec guestproto.Logs) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m.handlers.Add(1)
	m.host.handlers.Add(1)
	go func() { // the caller going away ends the stream
		defer m.host.handlers.Done()
		defer m.handlers.Done()
		defer cancel()
		_, _ = conn.Read(make([]byte, 1))
	}()
	defer conn.Close()
	if !m.host.behavior(m.spec.ID).hasLog(spec.Service) {
		_ = answer(conn, guestproto.Response{Error: &guestproto.Error{Message: "there is no service " + spec.Service}})
		return
	}
	sent := int(min(spec.After, math.MaxInt)) // of this boot: there is one journal
	for first := true; ; first = false {
		lines, total, err := m.logTail(ctx, sent, spec.Follow && !first)
		if err != nil {
			return
		}
		if first && spec.Tail > 0 && len(lines) > spec.Tail {
			lines = lines[len(lines)-spec.Tail:]
		}
		if b := m.host.behavior(m.spec.ID); first && len(b.Log) > 0 {
			lines = nil
			for _, text := range b.Log {
				lines = append(lines, guestproto.LogLine{Service: spec.Service, Stream: "stderr", Text: text})
			}
		}
		sent = total
		for _, l := range lines {
			if spec.Service != "" && spec.Service != l.Service {
				continue
			}
			if answer(conn, guestproto.Response{LogLine: &l}) != nil {
				return
			}
		}
		if !spec.Follow {
			_ = answer(conn, guestproto.Response{LogEnd: true})
			return
		}
	}
}

// hasLog reports whether a guest that behaves so has the service's log; "" is everybody's,
// and mvm the guest agent.
func (b Behavior) hasLog(service string) bool {
	if service == "" || service == "mvm" || service == "main" && len(b.Services) == 0 {
		return true
	}
	return slices.ContainsFunc(b.Services, func(s guestproto.ServiceStatus) bool { return s.Name == service })
}

// logTail returns the lines from the sent'th on and how many there are now; with
// wait it waits for one.
func (m *machine) logTail(ctx context.Context, sent int, wait bool) ([]guestproto.LogLine, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.await(ctx, func() bool {
		return m.state == Running && (!wait || m.guest.LogTotal > sent)
	})
	if err != nil {
		return nil, 0, err
	}
	fresh := max(0, min(m.guest.LogTotal-sent, len(m.guest.Log)))
	return append([]guestproto.LogLine(nil), m.guest.Log[len(m.guest.Log)-fresh:]...), m.guest.LogTotal, nil
}
