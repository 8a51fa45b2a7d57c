package guest_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"mvm/internal/guest/workload"
)

// Users as container images name them: by number, with a group, and not in etc/passwd.
func TestUsersOfContainers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("running services as other users needs root")
	}
	want := map[string]struct{ user, id string }{
		"a": {"app", "1234 4321"}, "b": {"app:web", "1234 77"}, "c": {"1234:web", "1234 77"}, "d": {"5000:6000", "5000 6000"}, "e": {"5000", "5000 0"}, "f": {"0:0", "0 0"}, "g": {":web", "0 77"},
	}
	var services []workload.Service
	for name, c := range want {
		services = append(services, workload.Service{Name: name, User: c.user, Dir: "/", Restart: "never", Command: sh("id -u; id -g")})
	}
	services = append(services, workload.Service{Name: "x", User: "app:ghosts", Restart: "never", Command: sh("true")}, workload.Service{Name: "y", User: "ghost:web", Restart: "never", Command: sh("true")})
	m := newMachine(t, services...)
	writeFile(t, m.paths.Etc+"/passwd", "app:x:1234:4321:An app:/:/bin/sh\n")
	writeFile(t, m.paths.Etc+"/group", "web:x:77:\n")
	m.mustConfigure(boot())
	for name, c := range want {
		m.awaitState(name, "done")
		var got []string
		for _, l := range m.logs(logsOf(name)) {
			got = append(got, l.Text)
		}
		if strings.Join(got, " ") != c.id {
			t.Errorf("user %q is %v, want %s", c.user, got, c.id)
		}
	}
	for name, says := range map[string]string{"x": "ghosts", "y": "ghost"} {
		m.awaitState(name, "failed")
		if s := m.service(name); !strings.Contains(s.Detail, says) {
			t.Errorf("%s says %q, want %q", name, s.Detail, says)
		}
	}
}

// A service is stopped with the signal that its definition names.
func TestStopSignal(t *testing.T) {
	trap := func(signal string) []string {
		return sh("trap 'echo got " + signal + "; exit 0' " + signal + "; echo up; while :; do sleep 0.05; done")
	}
	m := newMachine(t, workload.Service{Name: "quit", StopSignal: "QUIT", Command: trap("QUIT")},
		workload.Service{Name: "int", StopSignal: "2", Command: trap("INT")},
		workload.Service{Name: "wrong", StopSignal: "NONE", Command: sh("true")},
		workload.Service{Name: "term", Command: trap("TERM")})
	m.mustConfigure(boot())
	for _, name := range []string{"quit", "int", "term"} {
		eventually(t, name+" is up", func() bool { return len(m.logs(logsOf(name))) > 0 })
	}
	if s := m.service("wrong"); !strings.Contains(s.Detail, "stop_signal") {
		t.Errorf("a signal that is none: %+v", s)
	}
	if err := m.agent.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"quit": "got QUIT", "int": "got INT", "term": "got TERM"} {
		var got []string
		for _, l := range m.logs(logsOf(name)) {
			got = append(got, l.Text)
		}
		if !slices.Contains(got, want) { // the shell also tells of what it ran
			t.Errorf("%s wrote %q, want %q among it", name, got, want)
		}
	}
}
