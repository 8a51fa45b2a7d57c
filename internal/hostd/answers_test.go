package hostd_test

import (
	"bytes"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/network"
	"mvm/internal/network/networktest"
	"mvm/internal/testenv"
)

// Kinds of answers, and the question whose answer an older server does not have.
const answered, failed = 1, 2

// answering is a server that answers with what it is told, and a client of it. A nil
// answer is none: the connection ends.
func answering(t *testing.T, answer func(kind byte) []byte) *hostd.Client {
	t.Helper()
	path := filepath.Join(testenv.Dir(t), "hostd.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			if kind, _, err := hostd.Receive(conn); err == nil {
				_, _ = conn.Write(answer(kind))
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return hostd.NewClient(path)
}

// A server of an older mvm does not say whose it is: the agent is told to have it restarted.
func TestOlderServer(t *testing.T) {
	c := answering(t, func(kind byte) []byte {
		if kind == hostd.OpHello {
			return frame(answered, []byte(`{"epoch":"old"}`))
		}
		return frame(failed, []byte(`{"kind":"invalid","text":"read request: there is no kind 13"}`))
	}).For(hostd.Scope{Mark: "aa"})
	err := c.Network().Apply(t.Context(), networktest.Config())
	if !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "older mvm") || !strings.Contains(err.Error(), "systemctl restart") {
		t.Errorf("an older server: %v, want what to do", err)
	}
}

// An answer that lacks what it should have, or has more, is an error that names the server,
// not a half success.
func TestAnswersThatLackSomething(t *testing.T) {
	var body atomic.Pointer[[]byte]
	c := answering(t, func(byte) []byte { return *body.Load() })
	n := vmproc.Name{ID: "i-00000001", RunDir: "/run/mvm/i/i-00000001"}
	for what, answer := range map[string][]byte{
		"nothing":                {},
		"half a head":            frame(answered, []byte("{}"))[:4],
		"half a body":            frame(answered, []byte("{}"))[:7],
		"another version":        append([]byte{9}, frame(answered, []byte("{}"))[1:]...),
		"no JSON":                frame(answered, []byte("{")),
		"more JSON":              frame(answered, []byte("{}{}")),
		"unknown field":          frame(answered, []byte(`{"path":"/"}`)),
		"no file":                frame(answered, []byte("{}")),
		"a failure that is none": frame(failed, []byte("[]")),
	} {
		body.Store(&answer)
		for name, err := range map[string]error{
			"names": third(c.Network().OpenResolver(t.Context(), "acme")),
			"tap":   second(c.Network().OpenTAP(t.Context(), "acme", n.ID, uid)),
			"find":  second(spawn.Over(c.VMMs(spawn.Kind)).Find(t.Context(), n, vmproc.Hint{})),
		} {
			if err == nil || !mvm.IsKind(err, mvm.KindUnavailable) && !mvm.IsKind(err, mvm.KindInvalid) {
				t.Errorf("%s, answered with %s: %v", name, what, err)
			}
		}
		if what == "no file" {
			continue // of those that have none
		}
		for name, err := range map[string]error{"hello": c.Hello(t.Context()), "list": second(spawn.Over(c.VMMs(spawn.Kind)).List(t.Context(), "/run/mvm/i")), "leave": spawn.Over(c.VMMs(spawn.Kind)).Leave(t.Context(), n, "", nil)} {
			if err == nil {
				t.Errorf("%s, answered with %s: no error", name, what)
			}
		}
	}
}

// A VMM whose start was not answered may have been started: it is looked for, to be ended. One
// whose start was refused was not.
func TestLaunchWithoutAnAnswer(t *testing.T) {
	for what, c := range map[string]struct {
		answer []byte
		sought bool
	}{
		"the connection ends":  {nil, true},
		"half an answer":       {frame(answered, []byte("{}"))[:4], true},
		"it failed to answer":  {frame(failed, []byte(`{"kind":"timeout","text":"start the VMM"}`)), true},
		"it is refused":        {frame(failed, []byte(`{"kind":"invalid","text":"start the VMM: no"}`)), false},
		"the host lacks space": {frame(failed, []byte(`{"kind":"internal","text":"start the VMM: no"}`)), false},
	} {
		var sought atomic.Bool
		client := answering(t, func(kind byte) []byte {
			switch kind {
			case hostd.OpStart:
				return c.answer
			case hostd.OpFind:
				sought.Store(true)
			}
			return frame(failed, []byte(`{"kind":"not-found","text":"no such VMM"}`))
		})
		_, _, err := client.VMMs(spawn.Kind).Launch(t.Context(), vmproc.Launch{Name: vmproc.Name{ID: "i-00000001", RunDir: "/run/mvm/i/i-00000001"}})
		if err == nil || sought.Load() != c.sought {
			t.Errorf("%s: %v; looked for the VMM: %t, want %t", what, err, sought.Load(), c.sought)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func third[T, U any](_ T, _ U, err error) error { return err }

// A client whose network was closed asks nothing more, and one that has applied nothing
// does not sweep what may be another's.
func TestClosedNetwork(t *testing.T) {
	asked := atomic.Int32{}
	c := answering(t, func(byte) []byte { asked.Add(1); return frame(answered, []byte(`{"epoch":"x"}`)) })
	n := c.Network()
	if _, err := n.Sweep(t.Context()); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("sweep before a config: %v", err)
	}
	must(t, n.Close())
	for what, err := range map[string]error{"apply": n.Apply(t.Context(), network.Config{}), "tap": second(n.OpenTAP(t.Context(), "acme", "i-00000001", uid)),
		"sweep": second(n.Sweep(t.Context())), "verify": second(n.Verify(t.Context())), "occupied": second(n.Occupied(t.Context()))} {
		if !mvm.IsKind(err, mvm.KindState) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if k := asked.Load(); k > 0 {
		t.Errorf("it asked %d times", k)
	}
}

// What a caller is told has a bound, and says what to do in its own field.
func TestLongErrorsAreCut(t *testing.T) {
	w := newWorld(t)
	long := string(bytes.Repeat([]byte("x"), 10_000))
	got, _ := w.raw(frame(hostd.OpKill, []byte(`{"name":{"id":"a","run_dir":"/`+long+`"},"hint":{"pid":1,"start":1}}`)))
	if len(got) > 5000 || !slices.Contains([]byte{failed}, got[1]) {
		t.Errorf("answered with %d bytes of kind %d", len(got), got[1])
	}
}
