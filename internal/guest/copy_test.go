package guest_test

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mvm/internal/filecopy"
	"mvm/internal/guestproto"
)

// copySession is a copy from the host's side.
func (m *machine) copy(c guestproto.Copy) *session {
	m.t.Helper()
	s := &session{t: m.t, conn: m.dial()}
	_ = s.conn.SetDeadline(time.Now().Add(patience))
	if err := guestproto.Send(s.conn, guestproto.Request{Copy: &c}); err != nil {
		m.t.Fatal(err)
	}
	var resp guestproto.Response
	if err := guestproto.Receive(s.conn, &resp); err != nil || resp.ExecStarted == nil {
		m.t.Fatalf("copy: %+v, %v", resp, err)
	}
	return s
}

// stdin sends frames of what is written.
type stdin struct{ s *session }

func (w stdin) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		piece := b[n:min(len(b), n+guestproto.MaxExecData)]
		if err := guestproto.Send(w.s.conn, guestproto.ExecFrame{Stdin: piece}); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

func TestCopyInAndOut(t *testing.T) {
	m := newMachine(t)
	host := t.TempDir()
	writeFile(t, host+"/src/a", strings.Repeat("large ", 100_000))
	writeFile(t, host+"/src/sub/b", "bee")
	if err := os.Symlink("/nowhere", host+"/src/link"); err != nil {
		t.Fatal(err)
	}
	s := m.copy(guestproto.Copy{Path: m.paths.Data, In: true, Name: "src"})
	if err := filecopy.Send(stdin{s}, filecopy.Source{Path: host + "/src"}); err != nil {
		t.Fatal(err)
	}
	s.send(guestproto.ExecFrame{CloseStdin: true})
	if code := s.wait(); code != 0 {
		t.Fatalf("exit %d: %s", code, s.err.String())
	}
	if b := readFile(t, m.paths.Data+"/src/sub/b"); b != "bee" {
		t.Errorf("in the guest: %q", b)
	}

	if err := syscall.Mkfifo(m.paths.Data+"/src/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	s = m.copy(guestproto.Copy{Path: m.paths.Data + "/src"})
	if code := s.wait(); code != 0 || !strings.Contains(s.err.String(), "/src/pipe: it is a named pipe") {
		t.Fatalf("exit %d: %s", code, s.err.String())
	}
	if _, err := filecopy.Receive(&s.out, filecopy.Target{Path: host, Name: "back"}); err != nil {
		t.Fatal(err)
	}
	target, err := os.Readlink(host + "/back/link")
	if b := readFile(t, host+"/back/a"); b != strings.Repeat("large ", 100_000) || target != "/nowhere" {
		t.Errorf("back: %d bytes, link to %q, %v", len(b), target, err)
	}
}

func TestCopyThatFails(t *testing.T) {
	m := newMachine(t)
	for name, tc := range map[string]struct {
		c    guestproto.Copy
		code int
		want string
	}{
		"no source":   {guestproto.Copy{Path: m.paths.Data + "/nosuch"}, 3, "no such file"},
		"no folder":   {guestproto.Copy{Path: m.paths.Data + "/no/such", In: true, Name: "x"}, 3, "no such file"},
		"no file":     {guestproto.Copy{Path: "/dev/null"}, 1, "it is a device"},
		"into a file": {guestproto.Copy{Path: "/dev/null/x", In: true, Name: "x"}, 1, "not a directory"},
	} {
		s := m.copy(tc.c)
		if tc.c.In { // the guest may have ended already
			_ = filecopy.Send(stdin{s}, filecopy.Source{Path: "/etc/passwd"})
		}
		if code := s.wait(); code != tc.code || !strings.Contains(s.err.String(), tc.want) {
			t.Errorf("%s: exit %d, %q, want %d, %q", name, code, s.err.String(), tc.code, tc.want)
		}
	}
	for name, c := range map[string]guestproto.Copy{
		"relative":  {Path: "data/x"},
		"bad name":  {Path: "/tmp", In: true, Name: "../x"},
		"no user":   {Path: "/tmp", In: true, User: "nobody-here"},
		"user, out": {Path: "/tmp", User: "root"},
	} {
		if _, err := m.call(guestproto.Request{Copy: &c}); err == nil {
			t.Errorf("%s: it is not refused", name)
		}
	}
}

// TestCopyEndsWithTheHost: a host that goes away leaves no half file and no copy that
// goes on.
func TestCopyEndsWithTheHost(t *testing.T) {
	m := newMachine(t)
	var stream bytes.Buffer
	writeFile(t, m.paths.Data+"/large", strings.Repeat("x", 4<<20))
	if err := filecopy.Send(&stream, filecopy.Source{Path: m.paths.Data + "/large"}); err != nil {
		t.Fatal(err)
	}
	s := m.copy(guestproto.Copy{Path: m.paths.Data + "/half", In: true})
	if _, err := io.CopyN(stdin{s}, &stream, 1<<20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has begun", func() bool {
		all, err := os.ReadDir(m.paths.Data)
		return err == nil && len(all) > 1
	})
	var ended sync.WaitGroup
	for _, c := range []*session{s, m.copy(guestproto.Copy{Path: m.paths.Data + "/large"})} {
		ended.Go(func() { _ = c.conn.Close() })
	}
	ended.Wait()
	eventually(t, "nothing is left of it", func() bool {
		all, err := os.ReadDir(m.paths.Data)
		return err == nil && len(all) == 1 && all[0].Name() == "large"
	})
}
