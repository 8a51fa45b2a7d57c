package guest_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm/internal/guestproto"
)

// session is an exec from the host's side.
type session struct {
	t        *testing.T
	conn     net.Conn
	pid      int
	out, err bytes.Buffer
}

func (m *machine) exec(e guestproto.Exec) *session {
	m.t.Helper()
	s := &session{t: m.t, conn: m.dial()}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := guestproto.Call(ctx, s.conn, guestproto.Request{Exec: &e})
	if err != nil {
		m.t.Fatal(err)
	}
	s.pid = resp.ExecStarted.PID
	_ = s.conn.SetDeadline(time.Now().Add(patience))
	return s
}

func (s *session) send(f guestproto.ExecFrame) {
	s.t.Helper()
	if err := guestproto.Send(s.conn, f); err != nil {
		s.t.Fatal(err)
	}
}

// until reads frames until the condition holds or the command has ended.
func (s *session) until(holds func() bool) *guestproto.Exit {
	s.t.Helper()
	for !holds() {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(s.conn, &f); err != nil {
			s.t.Fatalf("exec: %v; so far %q %q", err, s.out.String(), s.err.String())
		}
		s.out.Write(f.Stdout)
		s.err.Write(f.Stderr)
		if f.Exit != nil {
			return f.Exit
		}
	}
	return nil
}

func (s *session) wait() int {
	s.t.Helper()
	return s.until(func() bool { return false }).Code
}

func TestExecPipes(t *testing.T) {
	m := newMachine(t)
	s := m.exec(guestproto.Exec{Argv: sh(`cat; echo "$A" >&2; pwd; exit 5`), Dir: "/tmp",
		Env: []string{"A=b c", "=no name", "no value", "B=cut\x00off"}}) // what is no variable is left out
	s.send(guestproto.ExecFrame{Stdin: []byte("in\x00put ")})
	s.send(guestproto.ExecFrame{CloseStdin: true})
	if code := s.wait(); code != 5 || s.out.String() != "in\x00put /tmp\n" || s.err.String() != "b c\n" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, s.out.String(), s.err.String())
	}
}

func TestExecManyBytes(t *testing.T) {
	m := newMachine(t)
	s := m.exec(guestproto.Exec{Argv: []string{"cat"}})
	chunk := bytes.Repeat([]byte("0123456789abcdef"), guestproto.MaxExecData/16)
	const chunks = 100
	go func() {
		for range chunks {
			_ = guestproto.Send(s.conn, guestproto.ExecFrame{Stdin: chunk})
		}
		_ = guestproto.Send(s.conn, guestproto.ExecFrame{CloseStdin: true})
	}()
	if code := s.wait(); code != 0 || !bytes.Equal(s.out.Bytes(), bytes.Repeat(chunk, chunks)) {
		t.Errorf("exit %d with %d bytes, want %d the same", code, s.out.Len(), chunks*len(chunk))
	}
}

func TestExecSignals(t *testing.T) {
	m := newMachine(t)
	s := m.exec(guestproto.Exec{Argv: sh("trap 'echo got; exit 3' USR1; echo up; while :; do sleep 0.02; done")})
	s.until(func() bool { return s.out.Len() > 0 })
	s.send(guestproto.ExecFrame{Signal: int(syscall.SIGUSR1)})
	if code := s.wait(); code != 3 || s.out.String() != "up\ngot\n" {
		t.Errorf("after SIGUSR1: exit %d, %q", code, s.out.String())
	}
	s = m.exec(guestproto.Exec{Argv: []string{"sleep", "1000"}})
	s.send(guestproto.ExecFrame{Signal: int(syscall.SIGKILL)})
	if code := s.wait(); code != 137 {
		t.Errorf("after SIGKILL: exit %d, want 137", code)
	}
}

// A size of which a part is missing is none; the smallest is one.
func TestSizeOfATerminal(t *testing.T) {
	m := newMachine(t)
	for _, c := range []struct {
		rows, cols uint16
		want       string
	}{{0, 0, "24 80"}, {0, 9, "24 80"}, {9, 0, "24 80"}, {1, 1, "1 1"}} {
		s := m.exec(guestproto.Exec{Argv: sh("stty size"), TTY: true, Rows: c.rows, Cols: c.cols})
		if code := s.wait(); code != 0 || strings.TrimSpace(s.out.String()) != c.want {
			t.Errorf("%d rows of %d: exit %d, %q, want %s", c.rows, c.cols, code, s.out.String(), c.want)
		}
	}
}

func TestExecTerminal(t *testing.T) {
	m := newMachine(t)
	s := m.exec(guestproto.Exec{Argv: sh(`stty size; trap 'stty size' WINCH; test -t 0 && test -t 2 && echo tty $TERM; until read x; do :; done; echo "<$x>"; exit 7`),
		TTY: true, Rows: 11, Cols: 22})
	s.until(func() bool { return strings.Contains(s.out.String(), "tty xterm") })
	if !strings.HasPrefix(s.out.String(), "11 22\r\n") {
		t.Errorf("the terminal's size is %q", s.out.String())
	}
	s.send(guestproto.ExecFrame{Resize: &guestproto.Resize{Rows: 33, Cols: 44}})
	s.send(guestproto.ExecFrame{Stdin: []byte("line\n")})
	if code := s.wait(); code != 7 || !strings.Contains(s.out.String(), "<line>") || !strings.Contains(s.out.String(), "33 44") {
		t.Errorf("exit %d, %q", code, s.out.String())
	}
	s = m.exec(guestproto.Exec{Argv: []string{"sleep", "1000"}, TTY: true})
	s.send(guestproto.ExecFrame{Stdin: []byte{3}})
	if code := s.wait(); code != 130 {
		t.Errorf("after ^C: exit %d, want 130", code)
	}
	s = m.exec(guestproto.Exec{Argv: []string{"cat"}, TTY: true})
	s.send(guestproto.ExecFrame{CloseStdin: true})
	if code := s.wait(); code != 0 {
		t.Errorf("after the end of input: exit %d", code)
	}
}

func TestExecHangUpKillsTheGroup(t *testing.T) {
	m := newMachine(t)
	for _, tty := range []bool{false, true} {
		s := m.exec(guestproto.Exec{Argv: sh("trap '' HUP; sleep 1000 & echo $!; wait"), TTY: tty})
		s.until(func() bool { return strings.Contains(s.out.String(), "\n") })
		child, err := strconv.Atoi(strings.TrimSpace(s.out.String()))
		if err != nil {
			t.Fatal(err)
		}
		s.conn.Close()
		eventually(t, "the command and its child are gone", func() bool {
			return !alive(s.pid) && (!alive(child) || zombie(child))
		})
	}
}

func TestExecDoesNotWaitForBackgroundOutput(t *testing.T) {
	m := newMachine(t)
	s := m.exec(guestproto.Exec{Argv: sh("sleep 1000 & echo $!")})
	began := time.Now()
	code := s.wait()
	child, err := strconv.Atoi(strings.TrimSpace(s.out.String()))
	if err != nil || code != 0 {
		t.Fatalf("exit %d, %q", code, s.out.String())
	}
	defer func() { _ = syscall.Kill(child, syscall.SIGKILL) }()
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("the end took %s", d)
	}
}

func TestExecRefuses(t *testing.T) {
	m := newMachine(t)
	for name, c := range map[string]struct {
		exec guestproto.Exec
		want string
	}{
		"no command":   {guestproto.Exec{}, "arguments"},
		"no program":   {guestproto.Exec{Argv: []string{"no-such-program"}}, "no program"},
		"no such file": {guestproto.Exec{Argv: []string{"/no/such/file"}}, "no such file"},
		"no user":      {guestproto.Exec{Argv: []string{"true"}, User: "ghost"}, "ghost"},
		"no folder":    {guestproto.Exec{Argv: []string{"true"}, Dir: "/no/such/dir"}, "no such file"},
	} {
		if _, err := m.call(guestproto.Request{Exec: &c.exec}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestExecAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("running commands as other users needs root")
	}
	m := newMachine(t)
	for _, tty := range []bool{false, true} {
		s := m.exec(guestproto.Exec{Argv: sh("id -u; echo $HOME"), User: "nobody", TTY: tty})
		if code := s.wait(); code != 0 || strings.Fields(s.out.String())[0] != "65534" {
			t.Errorf("tty %v: exit %d, %q", tty, code, s.out.String())
		}
	}
}

// An exec ends with the agent's connection to the host.
func TestExecEndsWithTheAgent(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "pid")
	t.Run("machine", func(t *testing.T) {
		m := newMachine(t)
		m.exec(guestproto.Exec{Argv: sh("echo $$ >" + flag + "; exec sleep 1000")})
		eventually(t, "running", func() bool { return strings.HasSuffix(readFile(t, flag), "\n") })
	})
	pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, flag)))
	if err != nil || alive(pid) {
		t.Errorf("process %d lives on, %v", pid, err)
	}
}
