package api_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
)

func execOn(t *testing.T, run func(ctx context.Context, spec mvm.ExecSpec, io mvm.ExecIO) (int, error)) *api.Client {
	return start(t, &script{exec: run})
}

func TestExecCarriesStreamsAndCode(t *testing.T) {
	svc := &script{exec: func(_ context.Context, _ mvm.ExecSpec, s mvm.ExecIO) (int, error) {
		n, err := io.Copy(s.Stdout, s.Stdin)
		fmt.Fprintf(s.Stderr, "copied %d", n)
		return 7, err
	}}
	c := start(t, svc)
	in := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB, far more than the window
	var out, errs bytes.Buffer
	spec := mvm.ExecSpec{Argv: []string{"cat", "-"}, Env: []string{"A=b"}, Dir: "/", User: "u", TTY: true, Rows: 2, Cols: 3}
	code, err := c.Exec(ctxOf(t), here, spec, mvm.ExecIO{Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs})
	if code != 7 || err != nil {
		t.Errorf("got %d, %v, want 7", code, err)
	}
	if !bytes.Equal(out.Bytes(), in) {
		t.Errorf("stdout has %d bytes, want the %d of stdin", out.Len(), len(in))
	}
	if want := fmt.Sprintf("copied %d", len(in)); errs.String() != want {
		t.Errorf("stderr %q, want %q", errs.String(), want)
	}
	if want := fmt.Sprintf("Exec by %s: %s", me(t), js([]any{here, spec})); svc.last() != want {
		t.Errorf("service got %s, want %s", svc.last(), want)
	}
}

func TestExecWithoutStdinIsAtItsEnd(t *testing.T) {
	c := execOn(t, func(_ context.Context, _ mvm.ExecSpec, s mvm.ExecIO) (int, error) {
		b, err := io.ReadAll(s.Stdin)
		return len(b), err
	})
	if code, err := c.Exec(ctxOf(t), here, mvm.ExecSpec{Argv: []string{"x"}}, mvm.ExecIO{}); code != 0 || err != nil {
		t.Errorf("got %d, %v", code, err)
	}
}

func TestExecErrors(t *testing.T) {
	for _, kind := range []mvm.Kind{mvm.KindNotFound, mvm.KindState, mvm.KindInternal} {
		c := start(t, &script{err: mvm.Errorf(kind, "no such luck").WithFix("try harder")})
		_, err := c.Exec(ctxOf(t), here, mvm.ExecSpec{Argv: []string{"x"}}, mvm.ExecIO{})
		if mvm.KindOf(err) != kind || !strings.Contains(err.Error(), "no such luck (try harder)") {
			t.Errorf("kind %s came back as %v", kind, err)
		}
	}
	c := start(t, &script{})
	if _, err := c.Exec(ctxOf(t), mvm.Address{Tenant: "acme"}, mvm.ExecSpec{Argv: []string{"x"}}, mvm.ExecIO{}); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("exec on a tenant: got %v, want invalid", err)
	}
}

func TestExecResizes(t *testing.T) {
	c := execOn(t, func(_ context.Context, _ mvm.ExecSpec, s mvm.ExecIO) (int, error) {
		size := <-s.Resize
		return int(size[0])*1000 + int(size[1]), nil
	})
	sizes := make(chan [2]uint16, 1)
	sizes <- [2]uint16{24, 80}
	code, err := c.Exec(ctxOf(t), here, mvm.ExecSpec{Argv: []string{"x"}}, mvm.ExecIO{Resize: sizes})
	if code != 24080 || err != nil {
		t.Errorf("got %d, %v, want 24080", code, err)
	}
}

// The command reads no stdin and prints nothing, and the client sends more than its
// window: that it hung up must be noticed all the same.
func TestExecEndsWhenTheClientHangsUp(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	c := execOn(t, func(ctx context.Context, _ mvm.ExecSpec, _ mvm.ExecIO) (int, error) {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return -1, ctx.Err()
	})
	ctx, cancel := context.WithCancel(ctxOf(t))
	defer cancel()
	in, w := io.Pipe()
	defer w.Close()
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, here, mvm.ExecSpec{Argv: []string{"sleep", "1000"}}, mvm.ExecIO{Stdin: io.MultiReader(bytes.NewReader(make([]byte, 4<<20)), in)})
		done <- err
	}()
	<-began
	cancel()
	if err := <-done; !mvm.IsKind(err, mvm.KindCanceled) {
		t.Errorf("caller got %v, want canceled", err)
	}
	select {
	case err := <-ended:
		if !mvm.IsKind(err, mvm.KindCanceled) {
			t.Errorf("command ended because of %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the command goes on")
	}
}

// handshake asks for exec's WebSocket.
const handshake = "GET /v1/instances/i-a3f7b2c1/exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v1.exec.mvm\r\n\r\n"

// rawSocket makes a WebSocket by hand.
func rawSocket(t *testing.T, socket string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, handshake)
	if head := until(t, conn, "\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.1 101") {
		t.Fatalf("no upgrade: %q", head)
	}
	return conn
}

// until reads until the text has come, or the end.
func until(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	var got []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(got), text); {
		if _, err := conn.Read(b); err != nil {
			break
		}
		got = append(got, b[0])
	}
	return string(got)
}

// rawExec is one whose command runs.
func rawExec(t *testing.T, socket string) net.Conn {
	t.Helper()
	conn := rawSocket(t, socket)
	if _, err := io.WriteString(conn, wsFrame(0x81, -1, `{"argv":["x"]}`)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// wsFrame is a frame of a WebSocket's client, which says that it has n bytes; negative: as many
// as it has.
func wsFrame(head byte, n int64, data string) string {
	if n < 0 {
		n = int64(len(data))
	}
	b := binary.BigEndian.AppendUint64([]byte{head, 0x80 | 127}, uint64(n))
	return string(append(b, 0, 0, 0, 0)) + data // masked with nothing
}

func frame(kind byte, n int64, payload string) string {
	return wsFrame(0x82, n+1, string(rune(kind))+payload)
}

func TestHostileExecFrames(t *testing.T) {
	for name, tc := range map[string]struct{ send, want string }{
		"too long":      {frame(0, 1<<31, strings.Repeat("x", 64<<10)), "more than"},
		"unknown type":  {frame(77, 0, ""), "unknown type 77"},
		"short resize":  {frame(2, 1, "x"), "resize frame has 1 bytes"},
		"beyond window": {strings.Repeat(frame(0, 1, "x"), 100), "frames ahead"},
	} {
		t.Run(name, func(t *testing.T) {
			causes := make(chan error, 1)
			svc := &script{exec: func(ctx context.Context, _ mvm.ExecSpec, _ mvm.ExecIO) (int, error) {
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return -1, context.Cause(ctx)
			}}
			socket, _ := serve(t, svc, api.ServerConfig{})
			conn := rawExec(t, socket)
			if _, err := io.WriteString(conn, tc.send); err != nil {
				t.Fatal(err)
			}
			got := until(t, conn, tc.want)
			if !strings.Contains(got, tc.want) {
				t.Errorf("client was told %q, want it to contain %q", got, tc.want)
			}
			conn.Close()
			select {
			case err := <-causes:
				if !mvm.IsKind(err, mvm.KindInvalid) {
					t.Errorf("command ended because of %v, want invalid", err)
				}
			case <-time.After(20 * time.Second):
				t.Error("the command goes on")
			}
		})
	}
}

// A client that reads nothing can't keep a command from being ended.
func TestExecEndsAtAClientThatReadsNothing(t *testing.T) {
	ended := make(chan struct{})
	svc := &script{exec: func(ctx context.Context, _ mvm.ExecSpec, s mvm.ExecIO) (int, error) {
		defer close(ended)
		for {
			if _, err := s.Stdout.Write(make([]byte, 32<<10)); err != nil {
				return -1, errors.New("output is not read")
			}
		}
	}}
	socket, srv := serve(t, svc, api.ServerConfig{})
	rawExec(t, socket)
	eventually(t, func() error {
		if svc.last() == "" {
			return errors.New("the command does not run")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := srv.Close(ctx); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	default:
		t.Error("Close returned while the command went on")
	}
	if ctx.Err() != nil {
		t.Error("Close had to wait for its deadline")
	}
}
