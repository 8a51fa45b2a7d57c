package guest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
	"mvm/internal/guestproto/mux"
)

func TestManyRequestsOnOneConnection(t *testing.T) {
	m := newMachine(t)
	conn := m.dial()
	for range 3 {
		for _, req := range []guestproto.Request{{Ping: true}, {WorkerStatus: true}, {Wake: true},
			{SleepPrep: &guestproto.SleepPrep{}}, {Status: true}, {IntegrationStatus: true}} {
			if _, err := guestproto.Call(t.Context(), conn, req); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Requests that come before the answers to earlier ones are all answered, in order,
// also after one that is watched for a hang-up.
func TestPipelinedRequests(t *testing.T) {
	m := newMachine(t)
	conn := m.dial()
	_ = conn.SetDeadline(time.Now().Add(patience))
	for range 20 {
		for _, req := range []guestproto.Request{{SleepPrep: &guestproto.SleepPrep{}}, {Ping: true}} {
			if err := guestproto.Send(conn, req); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 20 {
		for _, want := range []string{"SleepPrepAck", "Pong"} {
			var resp guestproto.Response
			if err := guestproto.Receive(conn, &resp); err != nil || guestproto.Variant(resp) != want {
				t.Fatalf("got %s, %v, want %s", guestproto.Variant(resp), err, want)
			}
		}
	}
}

func TestBadMessages(t *testing.T) {
	m := newMachine(t)
	for _, c := range []struct {
		name, frame string
		goesOn      bool
	}{
		{"unknown variant", `"Dance"`, true},
		{"unknown fields", `{"Dance":{}}`, true},
		{"no JSON", `{{{`, true},
		{"two variants", `{"SleepPrep":{},"Exec":{}}`, true},
		{"deep", strings.Repeat(`[`, 1000), true},
		{"too long", "", false},
	} {
		conn := m.dial()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if c.frame == "" {
			_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, guestproto.MaxFrame+1))
		} else if err := guestproto.WriteFrame(conn, []byte(c.frame)); err != nil {
			t.Fatal(err)
		}
		var resp guestproto.Response
		if err := guestproto.Receive(conn, &resp); err != nil || resp.Error == nil || resp.Error.Message == "" {
			t.Errorf("%s: answered %+v, %v, want an Error", c.name, resp, err)
		}
		if !c.goesOn {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("%s: the connection goes on: %v", c.name, err)
			}
			continue
		}
		if resp, err := guestproto.Call(t.Context(), conn, guestproto.Request{Ping: true}); err != nil || !resp.Pong {
			t.Errorf("%s: Ping after it: %v", c.name, err)
		}
	}
}

func TestTruncatedFrameIsDropped(t *testing.T) {
	m := newMachine(t)
	conn := m.dial()
	_, _ = conn.Write([]byte{0, 0, 0, 9, 'x'})
	_ = conn.(*net.UnixConn).CloseWrite()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(conn); err != nil || len(b) != 0 {
		t.Errorf("answered %q, %v", b, err)
	}
	m.must(guestproto.Request{Ping: true})
}

func TestTooManyConnections(t *testing.T) {
	m := newMachine(t)
	var conns []net.Conn
	for range 64 {
		conn := m.dial()
		if _, err := guestproto.Call(t.Context(), conn, guestproto.Request{Ping: true}); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	extra := m.dial()
	_ = extra.SetDeadline(time.Now().Add(patience))
	if _, err := extra.Read(make([]byte, 1)); err == nil {
		t.Error("the 65th connection was taken")
	}
	conns[0].Close()
	eventually(t, "a new connection is taken", func() bool {
		_, err := m.call(guestproto.Request{Ping: true})
		return err == nil
	})
}

func TestFence(t *testing.T) {
	m := newMachine(t)
	m.router.setActive(4)
	resp := m.must(guestproto.Request{Fence: &guestproto.Fence{InstanceID: "i-00000002"}})
	if a := resp.FenceAck; a.ActiveRequests != 5 || a.Open != 6 || a.LastActive.Unix() != 1e9 {
		t.Errorf("FenceAck %+v, want the router's 5 and 6", a)
	}
}

func TestShutdown(t *testing.T) {
	m := newMachine(t)
	resp := m.must(guestproto.Request{Shutdown: &guestproto.Shutdown{GraceSecs: 3}})
	if !resp.ShutdownAck.Success {
		t.Errorf("ShutdownAck %+v", resp.ShutdownAck)
	}
	m.must(guestproto.Request{Shutdown: &guestproto.Shutdown{GraceSecs: 9}})
	if grace := <-m.agent.Shutdown(); grace != 3*time.Second {
		t.Errorf("grace %s, want the first one's 3s", grace)
	}
}

func TestLogs(t *testing.T) {
	dir := t.TempDir()
	m := newMachine(t, workload.Service{Name: "app", Restart: "never",
		Command: sh(`echo one; echo two >&2; while ! test -e ` + dir + `/go; do sleep 0.02; done; printf 'x%.0s' $(seq 1 20000); echo; for i in 1 2 3; do echo "line $i"; done`)})
	m.mustConfigure(boot())
	eventually(t, "both streams are read", func() bool { return len(m.logs(guestproto.Logs{Service: "app"})) == 2 }) // they have no order
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.awaitState("app", "done")
	lines := m.logs(guestproto.Logs{Service: "app"})
	sizes := 0
	for _, l := range lines {
		if len(l.Text) > 16<<10 {
			t.Errorf("a line has %d bytes", len(l.Text))
		}
		sizes += len(l.Text)
	}
	if want := len("one") + len("two") + 20000 + 3*len("line 1"); sizes != want {
		t.Errorf("the lines hold %d bytes, want %d", sizes, want)
	}
	tail := m.logs(guestproto.Logs{Service: "app", Tail: 2})
	if len(tail) != 2 || tail[0].Text != "line 2" || tail[1].Text != "line 3" || tail[1].Stream != "stdout" || tail[1].Service != "app" {
		t.Errorf("tail 2 is %.300v", tail)
	}
	all := m.logs(guestproto.Logs{})
	if len(all) <= len(lines) || all[len(all)-1].Time.Before(all[0].Time) {
		t.Errorf("%d lines of all services, %d of app", len(all), len(lines))
	}
	if _, err := m.call(guestproto.Request{Logs: &guestproto.Logs{Service: "ghost"}}); err == nil {
		t.Error("the logs of a service that is not there")
	}
}

func TestLogsFollow(t *testing.T) {
	dir := t.TempDir()
	m := newMachine(t, workload.Service{Name: "app", Command: sh("echo first; while ! test -e " + dir + "/go; do sleep 0.02; done; echo second; exec sleep 1000")})
	m.mustConfigure(boot())
	conn := m.dial()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := guestproto.Send(conn, guestproto.Request{Logs: &guestproto.Logs{Service: "app", Follow: true}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "second"} {
		var resp guestproto.Response
		if err := guestproto.Receive(conn, &resp); err != nil || resp.LogLine == nil || resp.LogLine.Text != want {
			t.Fatalf("got %+v, %v, want %q", resp.LogLine, err, want)
		}
		writeFile(t, dir+"/go", "")
	}
}

func TestJournalIsBounded(t *testing.T) {
	j := workload.NewJournal()
	for i := range 300 {
		j.Append("app", "stdout", fmt.Sprintf("%d %s", i, strings.Repeat("x", 20_000)))
	}
	for i := range 100_000 {
		j.Append("chatty", "stdout", fmt.Sprint(i%10))
	}
	lines, _, _ := j.After("app", 0, 1000)
	total := 0
	for _, l := range lines {
		total += len(l.Text)
	}
	if total > 1<<20 || total < 1<<19 || !strings.HasPrefix(lines[len(lines)-1].Text, "299 ") {
		t.Errorf("%d bytes are kept, the last line is %.5q", total, lines[len(lines)-1].Text)
	}
	if lines, _, _ := j.After("chatty", 0, 100_000); len(lines) > 20_000 {
		t.Errorf("%d short lines are kept", len(lines))
	}
}

// The channel carries requests both ways over one port.
func TestChannel(t *testing.T) {
	host, port := net.Pipe()
	channel := guest.NewChannel(mux.NewServer(port))
	journal := workload.NewJournal()
	dir := t.TempDir()
	agent, err := guest.New(guest.Options{System: &fakeSystem{}, Processes: workload.NewProcesses(false), Journal: journal,
		Log: guest.NewLog(journal, nil), Paths: guest.Paths{Run: dir + "/run", Services: dir, Etc: dir, Data: dir}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := channel.Serve(ctx, agent); !mvm.IsKind(err, mvm.KindCanceled) && !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Errorf("Serve = %v", err)
		}
	})
	session, err := mux.Client(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := session.Open(t.Context(), guestproto.GuestPort)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := guestproto.Call(t.Context(), conn, guestproto.Request{Ping: true}); err != nil || !resp.Pong {
		t.Errorf("Ping = %+v, %v", resp, err)
	}
	wg.Go(func() { answerHost(t, session) })
	resp, err := channel.Call(t.Context(), guestproto.HostRequest{Acquire: &guestproto.Acquire{PoolID: "workers"}})
	if err != nil || resp.AcquireResult == nil || !resp.AcquireResult.Success {
		t.Errorf("Call = %+v, %v", resp, err)
	}
	other, err := session.Open(t.Context(), 99)
	if err != nil {
		t.Fatal(err)
	}
	_ = other.SetDeadline(time.Now().Add(patience))
	if _, err := other.Read(make([]byte, 1)); err == nil {
		t.Error("port 99 answers")
	}
	cancel()
	if err := agent.Close(t.Context()); err != nil {
		t.Error(err)
	}
	session.Close()
	channel.Close()
	wg.Wait()
	short, done := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer done()
	if _, err := channel.Call(short, guestproto.HostRequest{Acquire: &guestproto.Acquire{}}); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("Call without a host = %v, want unavailable", err)
	}
}

// answerHost answers one request to port 53.
func answerHost(t *testing.T, session *mux.Session) {
	conn, port, err := session.Accept()
	if err != nil || port != guestproto.HostPort {
		t.Errorf("the guest opened port %d, %v", port, err)
		return
	}
	defer conn.Close()
	var req guestproto.HostRequest
	if err := guestproto.Receive(conn, &req); err != nil || req.Acquire == nil {
		t.Errorf("the guest asked %+v, %v", req, err)
	}
	if err := guestproto.Send(conn, guestproto.HostResponse{AcquireResult: &guestproto.AcquireResult{Success: true}}); err != nil {
		t.Error(err)
	}
}
