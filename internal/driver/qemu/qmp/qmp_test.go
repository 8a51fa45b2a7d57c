package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/driver/qemu/qmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hello = `{"QMP": {"version": {}, "capabilities": []}}` + "\n"

// vmm is a server that plays a script: it answers qmp_capabilities and passes
// every other command to serve.
func vmm(t *testing.T, greeting string, serve func(conn *net.UnixConn, cmd, id string)) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "q"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, greeting)
		for s := bufio.NewScanner(conn); s.Scan(); {
			var m struct{ Execute, ID string }
			json.Unmarshal(s.Bytes(), &m)
			if m.Execute == "qmp_capabilities" {
				fmt.Fprintf(conn, `{"return": {}, "id": %q}`+"\n", m.ID)
				continue
			}
			serve(conn, m.Execute, m.ID)
		}
	}()
	conn, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); l.Close(); <-done })
	return conn
}

func ctx(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestAnswersAndEvents(t *testing.T) {
	conn := vmm(t, hello, func(c *net.UnixConn, cmd, id string) {
		fmt.Fprintf(c, `{"return": {"status": "stale"}, "id": "deadbeef-2"}`+"\n") // of a dead agent
		fmt.Fprintf(c, "not JSON\n{\"event\": \"STOP\", \"data\": {}}\n")
		if cmd == "bad" {
			fmt.Fprintf(c, `{"error": {"class": "GenericError", "desc": "no"}, "id": %q}`+"\n", id)
			return
		}
		fmt.Fprintf(c, `{"return": {"status": %q}, "id": %q}`+"\n", cmd, id)
	})
	events := make(chan qmp.Event, 10)
	c, err := qmp.New(ctx(t, time.Minute), conn, func(e qmp.Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, cmd := range []string{"query-status", "stop"} {
		var out struct{ Status string }
		if err := c.Do(ctx(t, time.Minute), cmd, nil, &out); err != nil || out.Status != cmd {
			t.Errorf("got %q, %v; want %q", out.Status, err, cmd)
		}
	}
	if e := <-events; e.Name != "STOP" {
		t.Errorf("event %q, want STOP", e.Name)
	}
	err = c.Do(ctx(t, time.Minute), "bad", nil, nil)
	var refused *qmp.Error
	if !errors.As(err, &refused) || refused.Desc != "no" || !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("got %v, want the VMM's refusal", err)
	}
}

func TestGreetingIsAwaitedWithBound(t *testing.T) {
	for name, greet := range map[string]string{"none": "", "junk": strings.Repeat("junk\n", 1000), "half": `{"QMP": {`} {
		t.Run(name, func(t *testing.T) {
			conn := vmm(t, greet, func(*net.UnixConn, string, string) {})
			_, err := qmp.New(ctx(t, 50*time.Millisecond), conn, nil)
			if !mvm.IsKind(err, mvm.KindUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want unavailable by the deadline", err)
			}
		})
	}
}

func TestHostileVMM(t *testing.T) {
	for name, serve := range map[string]func(*net.UnixConn, string, string){
		"silent":    func(*net.UnixConn, string, string) {},
		"goes away": func(c *net.UnixConn, _, _ string) { c.Close() },
		"long line": func(c *net.UnixConn, _, _ string) { c.Write([]byte(strings.Repeat("x", 2*qmp.MaxLine))) },
		"wrong id":  func(c *net.UnixConn, _, _ string) { fmt.Fprintln(c, `{"return": {}, "id": "x"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := qmp.New(ctx(t, time.Minute), vmm(t, hello, serve), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Do(ctx(t, 200*time.Millisecond), "stop", nil, nil); !mvm.IsKind(err, mvm.KindUnavailable) {
				t.Errorf("got %v, want unavailable", err)
			}
		})
	}
}

// A VMM that takes no more commands holds nobody beyond the call's own time.
func TestVMMThatTakesNothing(t *testing.T) {
	asked, end := make(chan struct{}, 10), make(chan struct{})
	conn := vmm(t, hello, func(*net.UnixConn, string, string) { asked <- struct{}{}; <-end })
	defer close(end)
	c, err := qmp.New(ctx(t, time.Minute), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Do(ctx(t, 200*time.Millisecond), "stop", nil, nil); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("the first: %v", err)
	}
	<-asked
	done := make(chan error, 1)
	go func() {
		done <- c.Do(ctx(t, 200*time.Millisecond), "x", strings.Repeat("x", 8<<20), nil)
	}()
	select {
	case err := <-done:
		if !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Errorf("the second: %v", err)
		}
	case <-time.After(30 * time.Second):
		c.Close()
		t.Error("a command that the VMM does not take is written for ever")
		<-done
	}
}

func TestSendFile(t *testing.T) {
	got := make(chan string, 1)
	conn := vmm(t, hello, func(c *net.UnixConn, cmd, id string) {
		got <- cmd
		fmt.Fprintf(c, `{"return": {}, "id": %q}`+"\n", id)
	})
	c, err := qmp.New(ctx(t, time.Minute), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.SendFile(ctx(t, time.Minute), "state", f); err != nil || <-got != "getfd" {
		t.Errorf("send a file: %v", err)
	}
}
