package fake

import (
	"encoding/binary"
	"errors"
	"net"
	"time"

	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// serve answers requests on one stream to the guest's port 52.
func (m *machine) serve(conn net.Conn) {
	for {
		var req guestproto.Request
		err := guestproto.Receive(conn, &req)
		if !m.running() {
			return
		}
		var unknown *guestproto.VariantError
		if errors.As(err, &unknown) {
			if answer(conn, guestproto.Response{Error: &guestproto.Error{Message: err.Error()}}) != nil {
				return
			}
			continue
		}
		if err != nil {
			return
		}
		name := guestproto.Variant(req)
		m.host.requested(m.spec.ID, name)
		m.asked(req, name)
		m.host.note("guest %s %s%s", m.spec.ID, name, reason(req))
		if b := m.host.behavior(m.spec.ID); b.applies(name) && m.misbehave(conn, req, b) {
			return
		}
		if !m.respond(conn, req) {
			return
		}
	}
}

// asked notes in the guest's log which request of the host's led to this one.
func (m *machine) asked(req guestproto.Request, name string) {
	id := req.ID()
	if id == "" {
		return
	}
	_ = m.withGuest(func(g *guestState) (change, error) { // a VMM that is gone has no log
		g.log("mvm", "host asks what="+name+" request="+id)
		return inMemory, nil
	})
}

func reason(req guestproto.Request) string {
	if req.Configure != nil {
		return " " + req.Configure.Reason
	}
	return ""
}

// misbehave does what the behaviour says instead of answering well, and reports
// whether the stream is done with.
func (m *machine) misbehave(conn net.Conn, req guestproto.Request, b Behavior) bool {
	if b.Delay > 0 && !m.sleep(b.Delay) {
		return true
	}
	switch {
	case b.Crash:
		m.end(driver.Exit{Code: 1, Detail: "VMM died"}, false)
	case b.Panic != "":
		m.end(driver.Exit{Guest: true, Panic: b.Panic, Detail: "guest-reset"}, false)
	case b.Poweroff:
		m.end(driver.Exit{Guest: true, Detail: "guest powered off"}, false)
	case b.Silent:
		buf := make([]byte, 4096)
		for { // takes what comes and never answers, until the stream ends
			if _, err := conn.Read(buf); err != nil {
				return true
			}
		}
	case b.Garbage:
		_ = guestproto.WriteFrame(conn, []byte("\x00{]garbage"))
	case b.Oversized:
		head := binary.BigEndian.AppendUint32(nil, guestproto.MaxFrame+1)
		_, _ = conn.Write(append(head, `"Pong"`...))
	case b.Truncated:
		_, _ = conn.Write(append(binary.BigEndian.AppendUint32(nil, 100), `"Po`...))
	case b.WrongType && req.Ping:
		_ = answer(conn, guestproto.Response{ClockAck: &guestproto.ClockAck{}})
	case b.WrongType:
		_ = answer(conn, guestproto.Response{Pong: true})
	case b.Refuse != "":
		_ = answer(conn, guestproto.Response{Error: &guestproto.Error{Message: b.Refuse}})
		return false
	default:
		return false
	}
	return true
}

// sleep waits as the guest, false when the VMM is gone first.
func (m *machine) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-m.done:
		return false
	case <-t.C:
		return m.running()
	}
}

func answer(conn net.Conn, r guestproto.Response) error { return guestproto.Send(conn, r) }

// respond answers well, and reports whether the stream goes on.
func (m *machine) respond(conn net.Conn, req guestproto.Request) bool {
	switch {
	case req.Exec != nil:
		m.exec(conn, *req.Exec)
		return false
	case req.Copy != nil:
		m.copy(conn, *req.Copy)
		return false
	case req.Logs != nil:
		m.logs(conn, *req.Logs)
		return false
	case req.Shutdown != nil:
		return m.shutdown(conn)
	}
	var resp guestproto.Response
	b := m.host.behavior(m.spec.ID)
	if err := m.withGuest(func(g *guestState) (change, error) {
		resp = g.answer(req, b)
		if changesMemory(req) {
			return inMemory, nil
		}
		return unchanged, nil
	}); err != nil {
		return false
	}
	if r := m.host.router(m.spec.ID); r != nil {
		resp = routed(r, req, resp)
	}
	return answer(conn, resp) == nil
}

// routed is the answer of a guest with a router: resp, but for what the router says.
func routed(r Router, req guestproto.Request, resp guestproto.Response) guestproto.Response {
	switch {
	case req.Configure != nil:
		if err := r.Configure(*req.Configure); err != nil {
			resp.ConfigureAck.Success, resp.ConfigureAck.Detail = false, new(err.Error())
		}
	case req.Fence != nil:
		ack := guestproto.FenceAck{ActiveRequests: r.Fence(*req.Fence)}
		ack.Open, ack.LastActive = r.Use(req.Fence.InstanceID)
		resp.FenceAck = &ack
	case req.Peers:
		p := r.Peers()
		resp.Peers = &p
	}
	return resp
}

// changesMemory reports whether the request leaves something in the guest.
func changesMemory(req guestproto.Request) bool {
	return req.Configure != nil || req.AdjustClock != nil || req.CheckpointIntegrations != nil || req.Wake || req.Suspend != nil || req.Settle
}

// answer makes the answer of the requests that have one.
func (g *guestState) answer(req guestproto.Request, b Behavior) guestproto.Response {
	switch {
	case req.Ping:
		return guestproto.Response{Pong: true}
	case req.WorkerStatus:
		w := guestproto.WorkerStatus{Status: "idle"}
		if b.Busy {
			w.Status, w.Reason = "busy", b.BusyReason
		}
		return guestproto.Response{WorkerStatus: &w}
	case req.Wake:
		return guestproto.Response{WakeAck: g.wake(b)}
	case req.SleepPrep != nil:
		a := ack(b.NackSleepPrep)
		return guestproto.Response{SleepPrepAck: &guestproto.SleepPrepAck{Success: a.Success, Detail: a.Detail, NextWake: b.NextWake}}
	case req.Status:
		s := g.status(b)
		return guestproto.Response{Status: &s}
	case req.Configure != nil:
		a := g.configure(*req.Configure, b)
		return guestproto.Response{ConfigureAck: &a}
	case req.AdjustClock != nil:
		g.ClockOffset += time.Duration(req.AdjustClock.OffsetNanos)
		return guestproto.Response{ClockAck: &guestproto.ClockAck{UnixNanos: g.now().UnixNano()}}
	case req.IntegrationStatus:
		return guestproto.Response{IntegrationStatusReport: g.integrations(b)}
	case req.CheckpointIntegrations != nil:
		return guestproto.Response{CheckpointResult: g.checkpoint(req.CheckpointIntegrations.Integrations, b)}
	case req.Suspend != nil:
		return guestproto.Response{SuspendAck: g.suspend(b)}
	case req.Settle:
		return guestproto.Response{SettleAck: g.settle(b)}
	case req.Preflight:
		return guestproto.Response{PreflightAck: &guestproto.PreflightAck{Safe: true}}
	case req.Sync:
		return guestproto.Response{SyncAck: ack("")}
	case req.Inbox != nil: // it keeps no messages
		return guestproto.Response{InboxReport: &guestproto.InboxReport{NotFound: req.Inbox.Do != guestproto.InboxList}}
	case req.CheckChannels:
		return guestproto.Response{ChannelChecks: &guestproto.ChannelChecks{Channels: b.Channels}}
	case req.Peers:
		return guestproto.Response{Peers: &guestproto.Peers{}}
	case req.Fence != nil:
		return guestproto.Response{FenceAck: &guestproto.FenceAck{ActiveRequests: b.Active, Open: b.Open, LastActive: b.LastActive}}
	}
	return guestproto.Response{Error: &guestproto.Error{Message: "no such request"}}
}

// ack says yes, or no with the detail.
func ack(detail string) *guestproto.Ack {
	if detail == "" {
		return &guestproto.Ack{Success: true}
	}
	return &guestproto.Ack{Detail: &detail}
}

func (m *machine) shutdown(conn net.Conn) bool {
	b := m.host.behavior(m.spec.ID)
	err := answer(conn, guestproto.Response{ShutdownAck: ack(b.NackShutdown)})
	if b.IgnoreShutdown || b.NackShutdown != "" {
		return err == nil
	}
	m.end(driver.Exit{Guest: true, Detail: "guest powered off"}, false)
	return false
}
