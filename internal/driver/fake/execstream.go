package fake

import (
	"bytes"
	"context"
	"net"
	"slices"
	"sync"
	"syscall"

	"mvm/internal/guestproto"
)

// execBuffer bounds the pieces of input that wait for a command.
const execBuffer = 16

// exec runs a built-in command on the stream.
func (m *machine) exec(conn net.Conn, spec guestproto.Exec) {
	if len(spec.Argv) == 0 {
		_ = answer(conn, guestproto.Response{Error: &guestproto.Error{Message: "exec without a command"}})
		return
	}
	if answer(conn, guestproto.Response{ExecStarted: &guestproto.ExecStarted{PID: 1000}}) != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	stdin, kill := make(chan []byte, execBuffer), make(chan int, 1)
	var reader sync.WaitGroup
	reader.Go(func() { readExec(ctx, conn, spec.TTY, stdin, kill) })
	var mu sync.Mutex
	send := func(f guestproto.ExecFrame) error {
		mu.Lock()
		defer mu.Unlock()
		return guestproto.Send(conn, f)
	}
	c := command{m: m, spec: spec, stdin: stdin, kill: kill, out: func(stderr bool, b []byte) error {
		for piece := range slices.Chunk(b, guestproto.MaxExecData) {
			f := guestproto.ExecFrame{Stdout: piece}
			if stderr {
				f = guestproto.ExecFrame{Stderr: piece}
			}
			if err := send(f); err != nil {
				return err
			}
		}
		return nil
	}}
	code := c.run()
	_ = send(guestproto.ExecFrame{Exit: &guestproto.Exit{Code: code}})
	cancel()
	_ = conn.Close() // ends the reader
	reader.Wait()
}

// The keys with which a terminal ends the input and interrupts.
const (
	keyEOF       = 4 // ^D
	keyInterrupt = 3 // ^C
)

// readExec takes the host's frames apart until the stream ends.
func readExec(ctx context.Context, conn net.Conn, tty bool, stdin chan<- []byte, kill chan<- int) {
	open := true
	for {
		var f guestproto.ExecFrame
		if guestproto.Receive(conn, &f) != nil {
			f = guestproto.ExecFrame{Signal: int(syscall.SIGHUP)} // the caller went away, which is no end of the input
		}
		if tty {
			f = keys(f)
		}
		if len(f.Stdin) > 0 && open {
			select {
			case stdin <- f.Stdin:
			case <-ctx.Done():
				return
			}
		}
		if f.Signal != 0 {
			select {
			case kill <- f.Signal:
			default: // one is under way
			}
		}
		if f.CloseStdin && open {
			close(stdin)
			open = false
		}
		if f.Signal == int(syscall.SIGHUP) {
			return
		}
	}
}

// keys does what a terminal does with the keys for the end and the interrupt.
func keys(f guestproto.ExecFrame) guestproto.ExecFrame {
	i := bytes.IndexAny(f.Stdin, string([]byte{keyEOF, keyInterrupt}))
	if i < 0 {
		return f
	}
	if f.Stdin[i] == keyInterrupt {
		f.Signal = int(syscall.SIGINT)
	} else {
		f.CloseStdin = true
	}
	f.Stdin = f.Stdin[:i]
	return f
}

// next returns the next piece of the input; nil at its end, and the exit code when
// a signal came first.
func (c command) next() ([]byte, int) {
	select {
	case b := <-c.stdin:
		return b, 0
	default:
	}
	select {
	case b := <-c.stdin:
		return b, 0
	case s := <-c.kill:
		return nil, 128 + s
	case <-c.m.done:
		return nil, 1
	}
}
