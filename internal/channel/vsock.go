package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

// VsockOptions say where a Vsock's ends are.
type VsockOptions struct {
	// RunDir is the folder of v.sock and v.sock_53, the host's ends.
	RunDir string
	// Shared is a folder in RunDir that the VMM may write to. There the VMM listens on its own
	// v.sock, and connects to v.sock_53.
	Shared string
	// VMM is who may listen on its v.sock, and its group.
	VMM sys.Peer
	GID int
	Log *slog.Logger
	// Gone, when not nil, is closed when the VMM is gone.
	Gone <-chan struct{}
}

// Vsock is the guest channel of a VMM with a vsock of its own, as Firecracker has it. A
// stream is a connection, and no session is kept. Its methods may be called from many
// goroutines.
type Vsock struct {
	opts VsockOptions
	*ends
	host *localServer
}

// ListenVsock listens for the guest's streams to the host, which the VMM may open from then
// on, and on v.sock. Close ends it.
func ListenVsock(opts VsockOptions) (*Vsock, error) {
	v := &Vsock{opts: opts}
	var err error
	if v.ends, err = openEnds(opts.RunDir, opts.Log, v.Dial); err != nil {
		return nil, err
	}
	v.host = &localServer{dir: opts.RunDir, name: hostName, conns: map[net.Conn]struct{}{}}
	err = v.inShared(func(d *sys.Folder) (err error) {
		v.host.l, err = d.ListenShared(hostName, opts.GID)
		return err
	})
	if err != nil {
		v.stop()
		return nil, mvm.Errorf(mvm.KindInternal, "open the guest channel: %w", err)
	}
	v.host.in = opts.Shared
	v.wg.Go(func() {
		v.accept(v.host, "guest's stream to the host", func(conn net.Conn, _ uint32) error {
			v.toHost(conn, hostPort)
			return nil
		})
	})
	v.start()
	return v, nil
}

// inShared calls fn with the folder that the VMM may write to.
func (v *Vsock) inShared(fn func(*sys.Folder) error) error {
	return sys.InFolder(v.opts.RunDir, func(d *sys.Folder) error { return d.InSub(v.opts.Shared, fn) })
}

// Close ends every stream, v.sock and what the guest can open, and waits for its
// goroutines. It is idempotent.
func (v *Vsock) Close() error {
	v.stop()
	v.host.close()
	v.wg.Wait()
	return nil
}

// errNoListener says that the VMM closed a connection without a line: it does so where
// nothing in the guest listens on the port, and where the guest has not come so far yet.
var errNoListener = errors.New("nothing listens on the port")

// Dial opens a stream to the guest's port. While the guest boots or stands still, it waits
// within ctx. KindUnavailable when the guest does not answer, or answers and has no
// listener on the port.
func (v *Vsock) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(v.ctx, func() { cancel(errClosed) })
	defer cancel(nil)
	defer stop()
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		conn, err := v.try(ctx, port)
		if err == nil {
			return conn, nil
		}
		if errors.Is(err, errNoListener) && port != guestproto.GuestPort && v.answers(ctx) {
			return nil, mvm.Errorf(mvm.KindUnavailable, "dial port %d of the guest: %w", port, err)
		}
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
			continue
		case <-v.opts.Gone:
			err = errors.New("the VMM is gone")
		case <-ctx.Done():
			err = fmt.Errorf("it does not answer: %w: %w", context.Cause(ctx), err)
		}
		t.Stop()
		return nil, mvm.Errorf(mvm.KindUnavailable, "dial port %d of the guest: %w", port, err)
	}
}

// answers reports that the guest's own agent listens, so that the guest runs.
func (v *Vsock) answers(ctx context.Context) bool {
	conn, err := v.try(ctx, guestproto.GuestPort)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// try asks the VMM once for a stream to the port, and waits for its word: a guest that
// stands still gives it when it goes on.
func (v *Vsock) try(ctx context.Context, port uint32) (net.Conn, error) {
	var conn *net.UnixConn
	err := v.inShared(func(d *sys.Folder) (err error) {
		conn, err = d.Dial(ctx, localName, v.opts.VMM)
		return err
	})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	line, err := ask(conn, port)
	if !stop() && err == nil { // it came at the last moment, and the deadline is in the past
		err = context.Cause(ctx)
	}
	if err == nil && !strings.HasPrefix(line, "OK ") {
		err = fmt.Errorf("the VMM answered %q", line)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask writes the CONNECT line and reads the answer, and nothing beyond it.
func ask(conn net.Conn, port uint32) (string, error) {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return "", err
	}
	var line []byte
	for b := make([]byte, 1); len(line) < maxLine; line = append(line, b[0]) {
		if _, err := io.ReadFull(conn, b); err != nil {
			if len(line) == 0 && !isTimeout(err) {
				err = errNoListener
			}
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
	}
	return "", errors.New("the VMM's answer is too long")
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
