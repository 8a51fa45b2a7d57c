package fakevmm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"mvm/internal/driver/firecracker/api"
	"mvm/internal/guestproto"
)

// guest is what the guest remembers.
type guest struct {
	BootID  string            `json:"boot_id"`
	Cmdline string            `json:"cmdline"`
	Files   map[string][]byte `json:"files"`
}

func bootGuest(args string) guest {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return guest{BootID: fmt.Sprintf("%x", b), Cmdline: args, Files: map[string][]byte{}}
}

// listen serves the machine's vsock.
func (m *machine) listen() error {
	ln, err := net.Listen("unix", m.vsock.Path)
	if err != nil {
		return err
	}
	m.listener = ln
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				m.connect(conn)
			}()
		}
	}()
	return nil
}

// running waits until the vCPUs run.
func (m *machine) running() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.state != api.Running {
		m.cond.Wait()
	}
}

// connect passes a host's connection on to the guest's listener. Where there is none it is
// closed without a word.
func (m *machine) connect(conn net.Conn) {
	r := bufio.NewReader(io.LimitReader(conn, 32))
	line, err := r.ReadString('\n')
	var port int
	if _, serr := fmt.Sscanf(line, "CONNECT %d\n", &port); err != nil || serr != nil {
		return
	}
	m.running()
	m.mu.Lock()
	hang, early := m.knobs.HangHostToGuest && m.bare, time.Since(m.booted) < m.knobs.ListenAfter
	m.mu.Unlock()
	if hang {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	if port != guestproto.GuestPort || early {
		return
	}
	if _, err := fmt.Fprintf(conn, "OK %d\n", 1<<30); err != nil {
		return
	}
	begun, _ := io.ReadAll(io.LimitReader(r, int64(r.Buffered())))
	m.serve(stream{conn, io.MultiReader(bytes.NewReader(begun), conn)})
}

// stream is a connection of which something was read already.
type stream struct {
	net.Conn
	r io.Reader
}

func (s stream) Read(b []byte) (int, error) { return s.r.Read(b) }

// serve answers requests on one stream.
func (m *machine) serve(s stream) {
	for {
		var req guestproto.Request
		if err := guestproto.Receive(s, &req); err != nil {
			return
		}
		m.running()
		resp := guestproto.Response{Error: &guestproto.Error{Message: "the stand-in's guest can't do " + guestproto.Variant(req)}}
		switch {
		case req.Ping:
			resp = guestproto.Response{Pong: true}
		case req.CallHost:
			resp = guestproto.Response{CallHostAck: &guestproto.Ack{Success: true}}
			if err := m.callHost(); err != nil {
				resp.CallHostAck = &guestproto.Ack{Detail: new(err.Error())}
			}
		case req.Configure != nil:
			resp = m.answerConfigure(*req.Configure)
		case req.Status:
			resp = guestproto.Response{Status: &guestproto.Status{Ready: true, UptimeSecs: 1}}
		case req.WorkerStatus:
			resp = guestproto.Response{WorkerStatus: &guestproto.WorkerStatus{Status: "idle"}}
		case req.SleepPrep != nil:
			resp = guestproto.Response{SleepPrepAck: &guestproto.SleepPrepAck{Success: true}}
		case req.CheckpointIntegrations != nil:
			resp = guestproto.Response{CheckpointResult: &guestproto.CheckpointResult{Success: true}}
		case req.Wake:
			resp = guestproto.Response{WakeAck: &guestproto.WakeAck{Success: true}}
		case req.Shutdown != nil:
			_ = guestproto.Send(s, guestproto.Response{ShutdownAck: &guestproto.Ack{Success: true}})
			m.reset("reboot: Restarting system")
			return
		case req.Exec != nil:
			m.exec(s, req.Exec.Argv)
			return
		}
		if guestproto.Send(s, resp) != nil {
			return
		}
	}
}

// answerConfigure has the guest take its configuration.
func (m *machine) answerConfigure(c guestproto.Configure) guestproto.Response {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := m.memory.load()
	if err != nil {
		return guestproto.Response{Error: &guestproto.Error{Message: err.Error()}}
	}
	return guestproto.Response{ConfigureAck: &guestproto.ConfigureAck{Success: true, Generation: c.Generation, BootID: g.BootID, UnixNanos: time.Now().UnixNano()}}
}

// reset ends the machine as a guest does.
func (m *machine) reset(words string) {
	m.mu.Lock()
	_, _ = fmt.Fprintf(m.serial, "%s\n", words)
	m.mu.Unlock()
	time.Sleep(5 * time.Millisecond) // so that the answer is on its way
	m.end(0)
}

// callHost asks the host something on port 53.
func (m *machine) callHost() error {
	m.mu.Lock()
	hang, path := m.knobs.HangGuestToHost && m.restored, m.vsock.Path
	m.mu.Unlock()
	if hang {
		return errors.New("connect: connection timed out")
	}
	conn, err := net.Dial("unix", fmt.Sprintf("%s_%d", path, guestproto.HostPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = guestproto.HostCall(ctx, conn, guestproto.HostRequest{QueryInstanceStatus: &guestproto.InstanceName{}})
	if _, answered := errors.AsType[*guestproto.RemoteError](err); answered {
		return nil
	}
	return err
}

// exec runs a command on the stream.
func (m *machine) exec(s stream, argv []string) {
	if guestproto.Send(s, guestproto.Response{ExecStarted: &guestproto.ExecStarted{}}) != nil {
		return
	}
	var stdin []byte
	for {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(s, &f); err != nil {
			return
		}
		stdin = append(stdin, f.Stdin...)
		if f.CloseStdin {
			break
		}
	}
	m.running()
	out, err := m.command(argv, stdin)
	for len(out) > 0 && err == nil {
		n := min(len(out), guestproto.MaxExecData)
		if guestproto.Send(s, guestproto.ExecFrame{Stdout: out[:n]}) != nil {
			return
		}
		out = out[n:]
	}
	exit := guestproto.Exit{}
	if err != nil {
		exit = guestproto.Exit{Code: 1, Detail: err.Error()}
	}
	_ = guestproto.Send(s, guestproto.ExecFrame{Exit: &exit})
}

// command is what the guest's commands do.
func (m *machine) command(argv []string, stdin []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := m.memory.load()
	if err != nil {
		return nil, err
	}
	switch {
	case len(argv) == 1 && argv[0] == "cat":
		return stdin, nil
	case argv[0] == "echo":
		return []byte(strings.Join(argv[1:], " ") + "\n"), nil
	case argv[0] == "say":
		_, err := fmt.Fprintln(m.serial, strings.Join(argv[1:], " "))
		return nil, err
	case argv[0] == "panic":
		_, _ = fmt.Fprintln(m.serial, "Kernel panic - not syncing: as told")
		m.end(0)
		return nil, nil
	case argv[0] == "abort":
		_, _ = fmt.Fprintln(m.stderr, "thread 'fc_vcpu 0' panicked: as told")
		m.end(148)
		return nil, nil
	case len(argv) == 2 && argv[0] == "cat":
		switch argv[1] {
		case "/proc/sys/kernel/random/boot_id":
			return []byte(g.BootID), nil
		case "/proc/cmdline":
			return []byte(g.Cmdline), nil
		}
		b, ok := g.Files[argv[1]]
		if !ok {
			return nil, fmt.Errorf("cat: %s: no such file", argv[1])
		}
		return b, nil
	case len(argv) == 2 && argv[0] == "tee":
		g.Files[argv[1]] = stdin
		return stdin, m.memory.store(g)
	}
	return nil, fmt.Errorf("%s: not found", argv[0])
}
