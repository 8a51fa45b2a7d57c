package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// ping asks the guest for a sign of life within the time.
func ping(ctx context.Context, v driver.VMM, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		return err
	}
	defer c.Close()
	resp, err := guestproto.Call(ctx, c, guestproto.Request{Ping: true})
	if err == nil && !resp.Pong {
		return fmt.Errorf("ping answered %+v", resp)
	}
	return err
}

// awake fails the test unless the guest answers.
func (s *suite) awake(t *testing.T, v driver.VMM) {
	t.Helper()
	if err := ping(t.Context(), v, s.Patience); err != nil {
		t.Fatalf("the guest does not answer: %v", err)
	}
}

// exec runs a command in the guest and returns its output.
func (s *suite) exec(t *testing.T, v driver.VMM, stdin []byte, argv ...string) []byte {
	t.Helper()
	out, err := s.try(t, v, stdin, argv...)
	if err != nil {
		t.Fatalf("exec %v: %v", argv, err)
	}
	return out
}

// try runs a command that may fail.
func (s *suite) try(t testing.TB, v driver.VMM, stdin []byte, argv ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.Patience)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		t.Fatalf("exec %v: %v", argv, err)
	}
	defer c.Close()
	return run(ctx, c, stdin, argv)
}

// run runs the command over the stream.
func run(ctx context.Context, c net.Conn, stdin []byte, argv []string) ([]byte, error) {
	resp, err := guestproto.Call(ctx, c, guestproto.Request{Exec: &guestproto.Exec{Argv: argv}})
	if err != nil {
		return nil, err
	}
	if resp.ExecStarted == nil {
		return nil, fmt.Errorf("answered %+v", resp)
	}
	release := guestproto.Bind(ctx, c)
	defer release()
	var sender sync.WaitGroup
	var sent error
	sender.Go(func() { sent = send(c, stdin) })
	var out, stderr bytes.Buffer
	for {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(c, &f); err != nil {
			_ = c.Close()
			sender.Wait()
			return nil, fmt.Errorf("after %d bytes of output: %w", out.Len(), errors.Join(err, sent))
		}
		out.Write(f.Stdout)
		stderr.Write(f.Stderr)
		if f.Exit == nil {
			continue
		}
		_ = c.Close() // a command may end without reading all of its input
		sender.Wait()
		if f.Exit.Code != 0 {
			return nil, fmt.Errorf("exit code %d: %s %s", f.Exit.Code, stderr.Bytes(), f.Exit.Detail)
		}
		return out.Bytes(), nil
	}
}

// send gives the command its input.
func send(c net.Conn, stdin []byte) error {
	for len(stdin) > 0 {
		n := min(len(stdin), guestproto.MaxExecData)
		if err := guestproto.Send(c, guestproto.ExecFrame{Stdin: stdin[:n]}); err != nil {
			return err
		}
		stdin = stdin[n:]
	}
	return guestproto.Send(c, guestproto.ExecFrame{CloseStdin: true})
}

// memory is a file that the guest holds in memory only.
const memory = "/tmp/drivertest"

// remember puts a text into the guest's memory.
func (s *suite) remember(t *testing.T, v driver.VMM, text string) {
	t.Helper()
	s.exec(t, v, []byte(text), "tee", memory)
}

// remembers fails the test unless the text is in the guest's memory, and the guest
// is still the same boot.
func (s *suite) remembers(t *testing.T, v driver.VMM, text string) {
	t.Helper()
	if got := string(s.exec(t, v, nil, "cat", memory)); got != text {
		t.Fatalf("the guest remembers %q, want %q", got, text)
	}
}

// bootID is the id of the guest kernel's boot.
func (s *suite) bootID(t *testing.T, v driver.VMM) string {
	t.Helper()
	return string(s.exec(t, v, nil, "cat", "/proc/sys/kernel/random/boot_id"))
}
