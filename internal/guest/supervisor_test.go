package guest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

func logsOf(service string) guestproto.Logs { return guestproto.Logs{Service: service} }

func TestServicesWaitForConfigureAndForEachOther(t *testing.T) {
	order := filepath.Join(t.TempDir(), "order")
	gate := order + ".gate"
	m := newMachine(t,
		workload.Service{Name: "app", After: []string{"setup", "db"}, Command: sh("echo app >>" + order + "; exec sleep 1000")},
		workload.Service{Name: "db", Command: sh("echo db >>" + order + "; exec sleep 1000"),
			Ready: &workload.Ready{File: gate, IntervalMS: 5}},
		workload.Service{Name: "setup", Restart: "on-failure", Command: sh("sleep 0.1; echo setup >>" + order)},
	)
	if s := m.status(); s.Ready || len(s.Services) != 0 {
		t.Errorf("before Configure: %+v", s)
	}
	m.mustConfigure(boot())
	m.awaitState("setup", "done")
	if s := m.status(); s.Ready || m.service("app").PID != 0 || s.Detail == "" {
		t.Errorf("with db not ready: %+v", s)
	}
	writeFile(t, gate, "")
	eventually(t, "ready", func() bool { return m.status().Ready })
	eventually(t, "worker-ready", func() bool { _, err := os.Stat(m.paths.Run + "/worker-ready"); return err == nil })
	eventually(t, "app has written", func() bool { return strings.Contains(readFile(t, order), "app\n") })
	if got := strings.Fields(readFile(t, order)); len(got) != 3 || got[2] != "app" {
		t.Errorf("started in the order %v, want app last", got)
	}
}

func TestServiceRestarts(t *testing.T) {
	m := newMachine(t,
		workload.Service{Name: "loop", Command: sh("echo again; exit 3")},
		workload.Service{Name: "once", Restart: "never", Command: sh("exit 4")},
		workload.Service{Name: "fine", Restart: "never", Command: sh("exit 0")},
		workload.Service{Name: "nowhere", Restart: "never", Command: []string{"/no/such/program"}},
		workload.Service{Name: "nobody", Restart: "never", User: "no-such-user", Command: sh("true")},
	)
	m.mustConfigure(boot())
	for name, state := range map[string]string{"once": "failed", "fine": "done", "nowhere": "failed", "nobody": "failed"} {
		m.awaitState(name, state)
	}
	for name, detail := range map[string]string{"once": "code 4", "nowhere": "no such file", "nobody": "no-such-user"} {
		if s := m.service(name); !strings.Contains(s.Detail, detail) {
			t.Errorf("%s says %q, want %q", name, s.Detail, detail)
		}
	}
	began := time.Now()
	eventually(t, "two restarts", func() bool { return m.service("loop").Restarts >= 2 })
	if d := time.Since(began); d < 500*time.Millisecond {
		t.Errorf("two restarts within %s, want a backoff", d)
	}
	if m.status().Ready {
		t.Error("ready although services failed")
	}
}

func TestServiceThatIsNotReadyInTime(t *testing.T) {
	m := newMachine(t, workload.Service{Name: "slow", Command: sh("sleep 1000"),
		Ready: &workload.Ready{Exec: []string{"/bin/sh", "-c", "exit 9"}, IntervalMS: 5, TimeoutSecs: 1}})
	m.mustConfigure(boot())
	pid := 0
	eventually(t, "running", func() bool { pid = m.service("slow").PID; return pid != 0 })
	m.awaitState("slow", "backoff")
	if s := m.service("slow"); !strings.Contains(s.Detail, "not ready within 1s") || !strings.Contains(s.Detail, "code 9") {
		t.Errorf("detail %q", s.Detail)
	}
	eventually(t, "the process is gone", func() bool { return !alive(pid) })
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// What a service leaves in its process group is killed with it.
func TestServiceGroupIsKilled(t *testing.T) {
	m := newMachine(t, workload.Service{Name: "parent", Restart: "never", Command: sh("sleep 1000 & echo $!; exit 0")})
	m.mustConfigure(boot())
	m.awaitState("parent", "done")
	pid, err := strconv.Atoi(m.logs(logsOf("parent"))[0].Text)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child is gone", func() bool { return !alive(pid) || zombie(pid) })
}

// zombie: the child was killed, and the system's init has not reaped it yet.
func zombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(b), ") Z ")
}

// Services stop after those that need them, with SIGTERM first and SIGKILL for
// those that do not listen.
func TestStopOrder(t *testing.T) {
	order := filepath.Join(t.TempDir(), "order")
	trap := func(name string) []string {
		return sh("trap 'echo " + name + " >>" + order + "; exit 0' TERM; echo up; while :; do sleep 0.05; done")
	}
	m := newMachine(t,
		workload.Service{Name: "db", Command: trap("db")},
		workload.Service{Name: "app", After: []string{"db"}, Command: trap("app")},
		workload.Service{Name: "deaf", Command: sh("trap '' TERM; echo up; while :; do sleep 0.05; done"), StopGraceSecs: 1},
	)
	m.mustConfigure(boot())
	for _, name := range []string{"db", "app", "deaf"} {
		eventually(t, name+" is up", func() bool { return len(m.logs(logsOf(name))) > 0 })
	}
	if err := m.agent.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(readFile(t, order)); len(got) != 2 || got[0] != "app" || got[1] != "db" {
		t.Errorf("stopped in the order %v, want app, db", got)
	}
	for _, s := range m.status().Services {
		if s.State != "stopped" || s.PID != 0 {
			t.Errorf("after Close: %+v", s)
		}
	}
}

func TestIfEnv(t *testing.T) {
	m := newMachine(t, workload.Service{Name: "app", IfEnv: "COMMAND", Command: sh("echo $COMMAND; exec sleep 1000")})
	c := boot()
	m.mustConfigure(c)
	if s := m.status(); !s.Ready || len(s.Services) != 0 {
		t.Errorf("without the variable: %+v", s)
	}
	c.Reason, c.Env = "update", map[string]string{"COMMAND": "hello"}
	m.mustConfigure(c)
	m.awaitState("app", "ready")
	eventually(t, "output", func() bool { l := m.logs(logsOf("app")); return len(l) == 1 && l[0].Text == "hello" })
	pid := m.service("app").PID
	m.mustConfigure(c)
	if got := m.service("app").PID; got != pid {
		t.Errorf("the same Configure again changed the pid from %d to %d", pid, got)
	}
	c.Env = nil
	m.mustConfigure(c)
	if s := m.status(); len(s.Services) != 0 || alive(pid) {
		t.Errorf("with the variable gone again: %+v", s)
	}
}

func TestServiceRunsAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("running services as other users needs root")
	}
	m := newMachine(t, workload.Service{Name: "who", User: "nobody", Dir: "/", Restart: "never", Env: map[string]string{"A": "def", "B": "def"},
		Command: sh("id -u; id -g; id -G; echo $USER $A $B; ps -o pgid= -p $$ | tr -d ' '; echo $$")})
	c := boot()
	c.Env = map[string]string{"B": "pool"}
	m.mustConfigure(c)
	m.awaitState("who", "done")
	var got []string
	for _, l := range m.logs(logsOf("who")) {
		got = append(got, l.Text)
	}
	if len(got) != 6 || got[0] != "65534" || got[1] != "65534" || !strings.Contains(got[2], "777") || got[3] != "nobody def pool" || got[4] != got[5] {
		t.Errorf("the service saw %q", got)
	}
}

func TestLoadServicesRefuses(t *testing.T) {
	for _, c := range []struct{ name, json, want string }{
		{"unknown field", `{"name":"s","command":["a"],"bogus":1}`, "bogus"},
		{"no command", `{"name":"s"}`, "command is empty"},
		{"other name", `{"name":"t","command":["a"]}`, `"t"`},
		{"trailing", `{"name":"s","command":["a"]} {}`, "data after"},
		{"restart", `{"name":"s","command":["a"],"restart":"maybe"}`, "maybe"},
		{"two checks", `{"name":"s","command":["a"],"ready":{"tcp":"127.0.0.1:1","file":"/x"}}`, "want one"},
		{"far check", `{"name":"s","command":["a"],"ready":{"tcp":"10.0.0.1:1"}}`, "loopback"},
		{"far url", `{"name":"s","command":["a"],"busy":"http://example.com/"}`, "loopback"},
		{"file url", `{"name":"s","command":["a"],"busy":"file:///etc/passwd"}`, "http"},
		{"far suspend", `{"name":"s","command":["a"],"suspend":"http://10.0.0.1/"}`, "loopback"},
		{"far hook", `{"name":"s","command":["a"],"on_secrets":{"http":"http://10.0.0.1/"}}`, "loopback"},
		{"two hooks", `{"name":"s","command":["a"],"on_secrets":{"signal":"HUP","command":["b"]}}`, "want one"},
		{"no hook", `{"name":"s","command":["a"],"on_secrets":{}}`, "want one"},
		{"deadly hook", `{"name":"s","command":["a"],"on_secrets":{"signal":"KILL"}}`, "KILL"},
		{"long hook", `{"name":"s","command":["a"],"on_secrets":{"signal":"HUP","timeout_secs":61}}`, "61"},
		{"secret path", `{"name":"s","command":["a"],"secret_env":{"A":"../x"}}`, "secret"},
		{"cycle", `{"name":"s","command":["a"],"after":["s"]}`, "needs s"},
		{"missing", `{"name":"s","command":["a"],"after":["x"]}`, "needs x"},
		{"large", `{"name":"s","command":["` + strings.Repeat("a", 70_000) + `"]}`, "larger"},
		{"empty", ``, "EOF"},
	} {
		dir := t.TempDir()
		writeFile(t, dir+"/s.json", c.json)
		writeFile(t, dir+"/good.json", `{"name":"good","command":["a"]}`)
		services, err := workload.LoadServices(dir)
		var broken *workload.ServiceError
		if !errors.As(err, &broken) || broken.Service != "s" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: LoadServices = %v, want %q of service s", c.name, err, c.want)
		}
		if len(services) != 1 || services[0].Name != "good" {
			t.Errorf("%s: the good service is not there: %v", c.name, services)
		}
	}
	if s, err := workload.LoadServices(t.TempDir() + "/none"); err != nil || len(s) != 0 {
		t.Errorf("LoadServices of no folder = %v, %v", s, err)
	}
}

func TestBrokenDefinitionShows(t *testing.T) {
	m := newMachine(t, workload.Service{Name: "bad", Command: []string{"true"}, After: []string{"none"}})
	m.mustConfigure(boot())
	s := m.status()
	if s.Ready || len(s.Services) != 1 || s.Services[0].State != "failed" || !strings.Contains(s.Detail, "needs none") {
		t.Errorf("status %+v", s)
	}
}
