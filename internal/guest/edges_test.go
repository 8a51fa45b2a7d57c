package guest_test

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// cutOff is a server whose answer ends before it is whole.
func cutOff(t *testing.T, body string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + body))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return "http://" + l.Addr().String()
}

// An answer of a service that was cut off is none: the service may have ended in the
// middle of it. One that nobody gave is told as such.
func TestAnswersThatAreCutOff(t *testing.T) {
	idle, ready := cutOff(t, `{"busy":false}`), cutOff(t, `{"state":"ready"}`)
	m := newMachine(t, workload.Service{Name: "app", Command: sh("exec sleep 1000"), Busy: idle, Suspend: ready})
	m.mustConfigure(boot())
	m.awaitState("app", "ready")
	if s := m.worker(); s.Status != "busy" || !strings.Contains(s.Reason, "does not say whether it is busy") {
		t.Errorf("half an answer: %+v, want busy", s)
	}
	if ack := m.suspend(0); ack.Success || !strings.Contains(*ack.Detail, "EOF") {
		t.Errorf("half an answer to a suspend: %+v", ack)
	}

	m = newMachine(t, workload.Service{Name: "app", Command: sh("exec sleep 1000"), Busy: "http://127.0.0.1:1/busy", Suspend: "http://127.0.0.1:1/suspend"})
	m.mustConfigure(boot())
	m.awaitState("app", "ready")
	if s := m.worker(); s.Status != "busy" || !strings.Contains(s.Reason, "refused") {
		t.Errorf("nobody listens: %+v, want busy and why", s)
	}
	if ack := m.suspend(0); ack.Success || !strings.Contains(*ack.Detail, "refused") {
		t.Errorf("nobody listens to a suspend: %+v", ack)
	}
}

// A single byte gets through, in either direction and on either stream.
func TestExecOneByte(t *testing.T) {
	m := newMachine(t)
	s := m.exec(guestproto.Exec{Argv: sh("head -c 1; printf y >&2")})
	s.send(guestproto.ExecFrame{Stdin: []byte("x")})
	if code := s.wait(); code != 0 || s.out.String() != "x" || s.err.String() != "y" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, s.out.String(), s.err.String())
	}
}

// A secret that can't be an environment variable is left out of the environment, wherever
// its zero byte is; one newline at the end does not count.
func TestSecretsInTheEnvironment(t *testing.T) {
	for secret, want := range map[string]string{"plain": "plain", "line\n": "line", "two\n\n": "two\n", "\x00first": "", "in\x00side": "", "last\x00": "", "": ""} {
		m := newMachine(t, workload.Service{Name: "app", Restart: "never", Command: sh(`printf '%s|' "$TOKEN"`), SecretEnv: map[string]string{"TOKEN": "token"}})
		c := boot()
		c.Secrets = map[string][]byte{"token": []byte(secret)}
		m.mustConfigure(c)
		eventually(t, "the service has ended", func() bool { s := m.service("app").State; return s == "done" || s == "failed" })
		var text []string
		for _, l := range m.logs(logsOf("app")) {
			if !strings.HasPrefix(l.Text, "secret") {
				text = append(text, l.Text)
			}
		}
		if got := strings.Join(text, "\n"); got != want+"|" && !(want == "" && got == "") {
			t.Errorf("secret %q is %q in the environment, want %q", secret, got, want+"|")
		}
	}
}

// A service has the home and the shell of its user; a home that is not there is "/".
func TestHomeOfAService(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("running services as other users needs root")
	}
	m := newMachine(t, workload.Service{Name: "a", User: "app", Dir: "/", Restart: "never", Command: sh("echo $HOME $SHELL $USER; id -u; id -g")},
		workload.Service{Name: "b", User: "1234", Dir: "/", Restart: "never", Command: sh("echo $USER")},
		workload.Service{Name: "c", User: "nobody", Dir: "/", Restart: "never", Command: sh("echo $HOME")})
	writeFile(t, m.paths.Etc+"/passwd", "root:x:0:0:root:/:/bin/sh\nhalf:x:1\napp:x:1234:4321:An app:/usr/lib:/bin/sh\nnobody:x:65534:65534::/nowhere:/bin/sh\nbad:x:x:y::/:/bin/sh\n")
	m.mustConfigure(boot())
	for name, want := range map[string]string{"a": "/usr/lib /bin/sh app 1234 4321", "b": "app", "c": "/"} {
		eventually(t, "service "+name+" has ended", func() bool { s := m.service(name).State; return s == "done" || s == "failed" })
		var got []string
		for _, l := range m.logs(logsOf(name)) {
			got = append(got, l.Text)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("service %s saw %q, want %q", name, got, want)
		}
	}
}
