package fake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
)

// within bounds every talk with a guest that is expected to answer.
const within = testenv.Patience

// ask sends one request on a stream of its own.
func ask(ctx context.Context, v driver.VMM, req guestproto.Request) (guestproto.Response, error) {
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		return guestproto.Response{}, err
	}
	defer c.Close()
	return guestproto.Call(ctx, c, req)
}

func call(t *testing.T, v driver.VMM, req guestproto.Request) guestproto.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	resp, err := ask(ctx, v, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// exec runs a command and returns output and exit code.
func exec(t *testing.T, v driver.VMM, stdin string, argv ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := guestproto.Call(ctx, c, guestproto.Request{Exec: &guestproto.Exec{Argv: argv}}); err != nil {
		t.Fatal(err)
	}
	defer guestproto.Bind(ctx, c)()
	if stdin != "" {
		if err := errors.Join(guestproto.Send(c, guestproto.ExecFrame{Stdin: []byte(stdin)}),
			guestproto.Send(c, guestproto.ExecFrame{CloseStdin: true})); err != nil {
			t.Fatal(err)
		}
	}
	return output(t, c)
}

// output reads a command's output and exit code.
func output(t *testing.T, c net.Conn) (string, int) {
	t.Helper()
	var out bytes.Buffer
	for {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(c, &f); err != nil {
			t.Fatal(err)
		}
		out.Write(f.Stdout)
		out.Write(f.Stderr)
		if f.Exit != nil {
			return out.String(), f.Exit.Code
		}
	}
}

// boot starts one guest on a host of its own.
func boot(t *testing.T, b fake.Behavior) (*fake.Host, driver.Driver, driver.Spec, driver.VMM) {
	t.Helper()
	host := fake.NewHost()
	t.Cleanup(host.Close)
	host.Behave("", b)
	d := fake.New(host, fake.Options{})
	spec := newSpec(t, testenv.Dir(t), "i-00000001")
	v, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return host, d, spec, v
}

func configure(reason string, generation int) guestproto.Request {
	return guestproto.Request{Configure: &guestproto.Configure{Reason: reason, UnixNanos: time.Now().UnixNano(),
		Entropy: make([]byte, 32), Hostname: "worker", Generation: generation, Env: map[string]string{"A": "1"},
		Secrets: map[string][]byte{"key": []byte("s3cret")}, Integrations: []mvm.Integration{{Name: "telegram"}}}}
}

func TestGuestAnswers(t *testing.T) {
	host, _, _, v := boot(t, fake.Behavior{})
	if s := call(t, v, guestproto.Request{Status: true}).Status; s == nil || s.Ready {
		t.Errorf("status before it is configured: %+v", s)
	}
	a := call(t, v, configure("boot", 3)).ConfigureAck
	if a == nil || !a.Success || a.Generation != 3 || a.BootID == "" {
		t.Fatalf("configure: %+v", a)
	}
	if off := time.Since(time.Unix(0, a.UnixNanos)).Abs(); off > within {
		t.Errorf("the guest's clock is off by %v", off)
	}
	if s := call(t, v, guestproto.Request{Status: true}).Status; s == nil || !s.Ready {
		t.Errorf("status: %+v, want ready", s)
	}
	if a := call(t, v, guestproto.Request{SleepPrep: &guestproto.SleepPrep{}}).SleepPrepAck; a == nil || !a.Success {
		t.Errorf("sleep prep: %+v", a)
	}
	if a := call(t, v, guestproto.Request{Wake: true}).WakeAck; a == nil || !a.Success {
		t.Errorf("wake: %+v", a)
	}
	if r := call(t, v, guestproto.Request{IntegrationStatus: true}).IntegrationStatusReport; r == nil || len(r.Integrations) != 1 {
		t.Errorf("integrations: %+v", r)
	}
	cp := guestproto.Request{CheckpointIntegrations: &guestproto.CheckpointIntegrations{Integrations: []string{"telegram"}}}
	if r := call(t, v, cp).CheckpointResult; r == nil || !r.Success {
		t.Errorf("checkpoint: %+v", r)
	}
	fence := guestproto.Request{Fence: &guestproto.Fence{InstanceID: "i-00000002", IP: netip.MustParseAddr("10.240.0.3")}}
	if r := call(t, v, fence).FenceAck; r == nil {
		t.Errorf("fence: %+v", r)
	}
	for _, want := range []string{"start i-00000001", "guest i-00000001 Configure boot", "guest i-00000001 SleepPrep"} {
		if !slices.Contains(host.Trace(), want) {
			t.Errorf("trace %q lacks %q", host.Trace(), want)
		}
	}
}

func TestGuestCommands(t *testing.T) {
	_, _, _, v := boot(t, fake.Behavior{})
	call(t, v, configure("boot", 1))
	for _, c := range []struct {
		argv  []string
		stdin string
		out   string
		code  int
	}{
		{[]string{"true"}, "", "", 0},
		{[]string{"false"}, "", "", 1},
		{[]string{"echo", "a", "b"}, "", "a b\n", 0},
		{[]string{"cat"}, "hello", "hello", 0},
		{[]string{"env"}, "", "A=1\n", 0},
		{[]string{"hostname"}, "", "worker\n", 0},
		{[]string{"cat", "/run/secrets/key"}, "", "s3cret", 0},
		{[]string{"cat", "/run/secrets/other"}, "", "cat: /run/secrets/other: no such file\n", 1},
		{[]string{"tee", "/data/x"}, "on disk", "on disk", 0},
		{[]string{"tee", "/tmp/x"}, "in memory", "in memory", 0},
		{[]string{"cat", "/data/x", "/tmp/x"}, "", "on diskin memory", 0},
		{[]string{"rm", "/tmp/x"}, "", "", 0},
		{[]string{"cat", "/tmp/x"}, "", "cat: /tmp/x: no such file\n", 1},
		{[]string{"count"}, "", "1\n", 0},
		{[]string{"count"}, "", "2\n", 0},
		{[]string{"sleep", "0"}, "", "", 0},
		{[]string{"nonsense"}, "", "nonsense: command not found\n", 127},
	} {
		out, code := exec(t, v, c.stdin, c.argv...)
		if out != c.out || code != c.code {
			t.Errorf("%v: %q, code %d, want %q, code %d", c.argv, out, code, c.out, c.code)
		}
	}
}

// TestExecEnds: a terminal's keys, a signal and the caller's going away end a
// command that waits for input.
func TestExecEnds(t *testing.T) {
	_, _, _, v := boot(t, fake.Behavior{})
	for name, c := range map[string]struct {
		tty    bool
		frames []guestproto.ExecFrame
		out    string
		code   int
	}{
		"EndKey":       {true, []guestproto.ExecFrame{{Stdin: []byte("a\x04b")}}, "a", 0},
		"InterruptKey": {true, []guestproto.ExecFrame{{Stdin: []byte("\x03")}}, "", 130},
		"NoTerminal":   {false, []guestproto.ExecFrame{{Stdin: []byte("a\x04")}, {CloseStdin: true}}, "a\x04", 0},
		"Signal":       {false, []guestproto.ExecFrame{{Signal: 15}}, "", 143},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			conn, err := v.Dial(ctx, guestproto.GuestPort)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := guestproto.Call(ctx, conn, guestproto.Request{Exec: &guestproto.Exec{Argv: []string{"cat"}, TTY: c.tty}}); err != nil {
				t.Fatal(err)
			}
			defer guestproto.Bind(ctx, conn)()
			for _, f := range c.frames {
				if err := guestproto.Send(conn, f); err != nil {
					t.Fatal(err)
				}
			}
			out, code := output(t, conn)
			if out != c.out || code != c.code {
				t.Errorf("%q, code %d, want %q, code %d", out, code, c.out, c.code)
			}
		})
	}
}

func TestLogs(t *testing.T) {
	_, _, _, v := boot(t, fake.Behavior{})
	exec(t, v, "", "logger", "first")
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	defer guestproto.Bind(ctx, c)()
	if err := guestproto.Send(c, guestproto.Request{Logs: &guestproto.Logs{Tail: 1, Follow: true}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "second", "third"} {
		var r guestproto.Response
		if err := guestproto.Receive(c, &r); err != nil || r.LogLine == nil || r.LogLine.Text != want {
			t.Fatalf("line %+v, %v, want %q", r.LogLine, err, want)
		}
		if want != "third" {
			exec(t, v, "", "logger", map[string]string{"first": "second", "second": "third"}[want])
		}
	}
}

// TestMisbehavior: each way to answer wrongly gives the caller an error, and the
// guest can still be killed.
func TestMisbehavior(t *testing.T) {
	for name, c := range map[string]struct {
		behavior fake.Behavior
		kinds    []mvm.Kind
		gone     bool
	}{
		"Silent":    {fake.Behavior{Silent: true}, []mvm.Kind{mvm.KindTimeout}, false},
		"Slow":      {fake.Behavior{Delay: time.Hour}, []mvm.Kind{mvm.KindTimeout}, false},
		"NoChannel": {fake.Behavior{NoChannel: true}, []mvm.Kind{mvm.KindUnavailable}, false},
		"SlowBoot":  {fake.Behavior{Boot: time.Hour}, []mvm.Kind{mvm.KindUnavailable}, false},
		"Garbage":   {fake.Behavior{Garbage: true}, []mvm.Kind{mvm.KindInvalid}, false},
		"Oversized": {fake.Behavior{Oversized: true}, []mvm.Kind{mvm.KindInvalid}, false},
		"Truncated": {fake.Behavior{Truncated: true}, []mvm.Kind{mvm.KindUnavailable}, false},
		"Refuse":    {fake.Behavior{Refuse: "no"}, []mvm.Kind{mvm.KindInternal}, false},
		"Crash":     {fake.Behavior{Crash: true}, []mvm.Kind{mvm.KindUnavailable}, true},
		"Poweroff":  {fake.Behavior{Poweroff: true}, []mvm.Kind{mvm.KindUnavailable}, true},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, v := boot(t, c.behavior)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := ask(ctx, v, guestproto.Request{Ping: true})
			if !slices.Contains(c.kinds, mvm.KindOf(err)) {
				t.Errorf("error %v of kind %q, want %v", err, mvm.KindOf(err), c.kinds)
			}
			select {
			case <-v.Done():
				if !c.gone {
					t.Errorf("the VMM is gone: %+v", v.Exit())
				}
			default:
				if c.gone {
					t.Error("the VMM is still there")
				}
			}
			if err := v.Kill(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("WrongType", func(t *testing.T) {
		_, _, _, v := boot(t, fake.Behavior{WrongType: true, Only: []string{"Wake"}})
		if r := call(t, v, guestproto.Request{Wake: true}); r.WakeAck != nil || !r.Pong {
			t.Errorf("wake answered %+v, want a pong", r)
		}
		if r := call(t, v, guestproto.Request{WorkerStatus: true}); r.WorkerStatus == nil {
			t.Errorf("worker status answered %+v, although only Wake is wrong", r)
		}
	})
}

func TestDieOnPause(t *testing.T) {
	_, _, _, v := boot(t, fake.Behavior{DieOnPause: true})
	if err := v.Pause(t.Context()); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("pause: %v", err)
	}
	<-v.Done()
	if e := v.Exit(); e.Guest || e.Code != 1 {
		t.Errorf("exit %+v", e)
	}
}

// TestSecretsSleepNowhere: no file of a sleeper holds a secret, and a wake brings
// them anew.
func TestSecretsSleepNowhere(t *testing.T) {
	_, d, spec, v := boot(t, fake.Behavior{})
	call(t, v, configure("boot", 1))
	snap := drivertest.Snapshot(t, spec)
	if err := errors.Join(v.Pause(t.Context()), v.Snapshot(t.Context(), snap), v.Kill(t.Context()), d.Destroy(t.Context(), spec)); err != nil {
		t.Fatal(err)
	}
	for _, f := range drivertest.SnapshotFiles(t, snap) {
		if b := readAll(t, f); strings.Contains(b, "czNjcmV0") || strings.Contains(b, "s3cret") {
			t.Errorf("%s holds the secret", f)
		}
	}
	v, err := d.Restore(t.Context(), spec, snap)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, code := exec(t, v, "", "cat", "/run/secrets/key"); code == 0 {
		t.Error("the secret is there before the wake brought it")
	}
	call(t, v, configure("wake", 1))
	if out, _ := exec(t, v, "", "cat", "/run/secrets/key"); out != "s3cret" {
		t.Errorf("the secret is %q", out)
	}
}

// TestClockStandsStill: a guest's clock stands while it sleeps, until it is set.
func TestClockStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, spec, v := boot(t, fake.Behavior{})
		call(t, v, configure("boot", 1))
		snap := drivertest.Snapshot(t, spec)
		if err := errors.Join(v.Pause(t.Context()), v.Snapshot(t.Context(), snap), v.Kill(t.Context())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		v, err := d.Restore(t.Context(), spec, snap)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		offset := func() time.Duration {
			a := call(t, v, guestproto.Request{AdjustClock: &guestproto.AdjustClock{}}).ClockAck
			return time.Until(time.Unix(0, a.UnixNanos))
		}
		if got := offset(); got != -time.Hour {
			t.Errorf("after an hour of sleep the clock is off by %v", got)
		}
		call(t, v, configure("wake", 1))
		if got := offset(); got != 0 {
			t.Errorf("after the wake the clock is off by %v", got)
		}
		if err := v.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestMany: a host simulates as many instances as it is given.
func TestMany(t *testing.T) {
	const n = 500 // files are what costs: a folder, a record, a memory file each
	host := fake.NewHost()
	defer host.Close()
	d := fake.New(host, fake.Options{})
	root := testenv.Dir(t)
	for i := range n {
		spec := newSpec(t, root, fmt.Sprintf("i-%08x", i))
		if _, err := d.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(host.VMMs()); got != n {
		t.Errorf("%d VMMs, want %d", got, n)
	}
	host.Reboot()
	if got := host.VMMs(); len(got) > 0 {
		t.Errorf("after a reboot there are %d VMMs", len(got))
	}
	ended, err := d.Sweep(t.Context(), filepath.Join(root, "run"), func(string) bool { return false })
	if err != nil || len(ended) > 0 {
		t.Errorf("a sweep after a reboot ended %v, %v", ended, err)
	}
}

// TestAsk: the guest asks the host, on the socket of its instance.
func TestAsk(t *testing.T) {
	host, _, spec, _ := boot(t, fake.Behavior{})
	req := guestproto.HostRequest{WakeInstance: &guestproto.InstanceName{TenantID: "acme", PoolID: "w", InstanceID: "i-00000002"}}
	if _, err := host.Ask(t.Context(), spec.ID, req); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("ask with no host listening: %v", err)
	}
	ln := listen(t, filepath.Join(spec.RunDir, "v.sock_53"))
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		var got guestproto.HostRequest
		err = guestproto.Receive(c, &got)
		if err == nil && (got.WakeInstance == nil || *got.WakeInstance != *req.WakeInstance) {
			err = io.ErrUnexpectedEOF
		}
		done <- errors.Join(err, guestproto.Send(c, guestproto.HostResponse{WakeResult: &guestproto.Ack{Success: true}}))
	}()
	resp, err := host.Ask(t.Context(), spec.ID, req)
	if err != nil || resp.WakeResult == nil || !resp.WakeResult.Success {
		t.Errorf("ask: %+v, %v", resp, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestEndedHalfway: a VMM that ends while it starts or restores holds no interface afterwards.
func TestEndedHalfway(t *testing.T) {
	for _, op := range []fake.Op{fake.OpStartBoot, fake.OpRestoreLoad} {
		t.Run(string(op), func(t *testing.T) {
			root, host := testenv.Dir(t), fake.NewHost()
			defer host.Close()
			spec := newSpec(t, root, "i-00000001")
			var ends atomic.Bool
			d := fake.New(host, fake.Options{Fail: func(at fake.Op, id string) error {
				if ends.Load() && at == op && !host.Crash(id) {
					t.Error("there is no VMM to end")
				}
				return nil
			}})
			start := func(tap *os.File) (driver.VMM, error) { spec.TAP = tap; return d.Start(t.Context(), spec) }
			if op == fake.OpRestoreLoad {
				snap := drivertest.Snapshot(t, spec)
				v, err := d.Start(t.Context(), spec)
				if err == nil {
					err = errors.Join(v.Pause(t.Context()), v.Snapshot(t.Context(), snap), v.Kill(t.Context()), d.Destroy(t.Context(), spec))
				}
				if err != nil {
					t.Fatal(err)
				}
				start = func(tap *os.File) (driver.VMM, error) { spec.TAP = tap; return d.Restore(t.Context(), spec, snap) }
			}
			there, tap, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer there.Close()
			ends.Store(true)
			if _, err := start(tap); !mvm.IsKind(err, mvm.KindState) {
				t.Errorf("%s: %v, want kind state", op, err)
			}
			if err := errors.Join(tap.Close(), there.SetReadDeadline(time.Now().Add(5*time.Second))); err != nil {
				t.Fatal(err)
			}
			if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the interface is held after %s has failed: %v", op, err)
			}
		})
	}
}
