package guest_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guest"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv("MVM_TEST_INIT") != "" {
		os.Exit(beInit())
	}
	goleak.VerifyTestMain(m)
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// fakeSystem records operations, and fails those that a test names.
type fakeSystem struct {
	mu    sync.Mutex
	ops   []string
	fail  map[string]error
	clock time.Time
	step  time.Duration
	net   guestproto.Net
}

func (f *fakeSystem) do(op string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, op)
	return f.fail[op]
}

func (f *fakeSystem) did() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ops := f.ops
	f.ops = nil
	return ops
}

func (f *fakeSystem) SetClock(t time.Time) error        { f.clock = t; return f.do("clock") }
func (f *fakeSystem) StepClock(d time.Duration) error   { f.step = d; return f.do("step") }
func (f *fakeSystem) AddEntropy([]byte) error           { return f.do("entropy") }
func (f *fakeSystem) BootID() (string, error)           { return "boot-1", f.do("bootid") }
func (f *fakeSystem) SetHostname(string) error          { return f.do("hostname") }
func (f *fakeSystem) SetNetwork(n guestproto.Net) error { f.net = n; return f.do("network") }
func (f *fakeSystem) HoldsSecrets(string) error         { return f.do("memory") }
func (f *fakeSystem) Uptime() (time.Duration, error)    { return time.Second, nil }
func (f *fakeSystem) Announce() error                   { return f.do("announce") }
func (f *fakeSystem) Sync()                             { _ = f.do("sync") }
func (f *fakeSystem) SyncFolder(dir string) error       { return f.do("sync " + filepath.Base(dir)) }
func (f *fakeSystem) PowerOff() error                   { return f.do("poweroff") }

// fakeRouter is a gateway's router with a settable load.
type fakeRouter struct {
	mu         sync.Mutex
	active     int
	configured int
	err        error
}

func (r *fakeRouter) Configure(guestproto.Configure) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.configured++
	return r.err
}
func (r *fakeRouter) Fence(guestproto.Fence) int { return r.Active() + 1 }
func (r *fakeRouter) Peers() guestproto.Peers {
	return guestproto.Peers{Instances: []guestproto.Peer{{InstanceID: "i-00000002", Boot: 7}}}
}
func (r *fakeRouter) Use(string) (int, time.Time) { return r.Active() + 2, time.Unix(1e9, 0) }
func (r *fakeRouter) Active() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active
}
func (r *fakeRouter) setActive(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = n
}
func (r *fakeRouter) Close() error { return nil }

// machine is an agent that is served on a unix socket.
type machine struct {
	t      *testing.T
	dir    string
	paths  guest.Paths
	sys    *fakeSystem
	router *fakeRouter
	agent  *guest.Agent
	socket string
	host   guest.Host
}

// newMachine starts an agent with the services, and ends it with the test.
func newMachine(t *testing.T, services ...workload.Service) *machine {
	t.Helper()
	return newMachineWith(t, nil, services...)
}

// newMachineWith starts an agent that tells the host how its services are.
func newMachineWith(t *testing.T, host guest.Host, services ...workload.Service) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, host: host, dir: dir, sys: &fakeSystem{fail: map[string]error{}}, router: &fakeRouter{}, socket: dir + "/sock",
		paths: guest.Paths{Services: dir + "/services", Secrets: dir + "/tmpfs/secrets", Config: dir + "/config",
			Run: dir + "/run", Data: dir + "/data", Etc: dir + "/etc"}}
	writeFile(t, m.paths.Etc+"/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/nowhere:/bin/sh\ndaemon:x:1:1::/:/bin/sh\n")
	writeFile(t, m.paths.Etc+"/group", "root:x:0:\nextra:x:777:daemon,nobody\n")
	for _, d := range []string{m.paths.Services, dir + "/tmpfs", m.paths.Data} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The workload's users must get to the folders of the test.
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	for _, s := range services {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, m.paths.Services+"/"+s.Name+".json", string(b))
	}
	m.start()
	return m
}

func (m *machine) start() {
	m.t.Helper()
	journal := workload.NewJournal()
	agent, err := guest.New(guest.Options{System: m.sys, Processes: workload.NewProcesses(false), Journal: journal,
		Log: guest.NewLog(journal, nil), Paths: m.paths, Router: m.router, Host: m.host})
	if err != nil {
		m.t.Fatal(err)
	}
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		m.t.Fatal(err)
	}
	m.agent = agent
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- guest.ServeListener(ctx, l, agent) }()
	m.t.Cleanup(func() {
		grace, done := context.WithTimeout(context.Background(), patience)
		defer done()
		if err := agent.Close(grace); err != nil {
			m.t.Errorf("close agent: %v", err)
		}
		cancel()
		if err := <-served; err != nil {
			m.t.Errorf("serve: %v", err)
		}
	})
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func (m *machine) dial() net.Conn {
	m.t.Helper()
	conn, err := net.Dial("unix", m.socket)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return conn
}

// call asks over a connection of its own.
func (m *machine) call(req guestproto.Request) (guestproto.Response, error) {
	m.t.Helper()
	conn := m.dial()
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return guestproto.Call(ctx, conn, req)
}

func (m *machine) must(req guestproto.Request) guestproto.Response {
	m.t.Helper()
	resp, err := m.call(req)
	if err != nil {
		m.t.Fatal(err)
	}
	return resp
}

// boot is a Configure as the host sends it first.
func boot() guestproto.Configure {
	return guestproto.Configure{Reason: "boot", UnixNanos: time.Now().UnixNano(), Entropy: make([]byte, 32),
		TenantID: "alice", PoolID: "workers", InstanceID: "i-00000001", Role: mvm.RoleWorker, Hostname: "h", Generation: 1}
}

func (m *machine) configure(c guestproto.Configure) *guestproto.ConfigureAck {
	m.t.Helper()
	return m.must(guestproto.Request{Configure: &c}).ConfigureAck
}

// mustConfigure fails the test unless the ack is a success.
func (m *machine) mustConfigure(c guestproto.Configure) {
	m.t.Helper()
	if ack := m.configure(c); !ack.Success {
		m.t.Fatalf("configure: %s", *ack.Detail)
	}
}

func (m *machine) status() guestproto.Status {
	m.t.Helper()
	return *m.must(guestproto.Request{Status: true}).Status
}

func (m *machine) service(name string) guestproto.ServiceStatus {
	m.t.Helper()
	for _, s := range m.status().Services {
		if s.Name == name {
			return s
		}
	}
	return guestproto.ServiceStatus{}
}

// awaitState waits until the service is in the state.
func (m *machine) awaitState(name, state string) {
	m.t.Helper()
	eventually(m.t, "service "+name+" is "+state, func() bool { return m.service(name).State == state })
}

func (m *machine) logs(l guestproto.Logs) []guestproto.LogLine {
	m.t.Helper()
	conn := m.dial()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := guestproto.Send(conn, guestproto.Request{Logs: &l}); err != nil {
		m.t.Fatal(err)
	}
	var lines []guestproto.LogLine
	for {
		var resp guestproto.Response
		if err := guestproto.Receive(conn, &resp); err != nil {
			m.t.Fatal(err)
		}
		if resp.LogEnd {
			return lines
		}
		if resp.LogLine == nil {
			m.t.Fatalf("logs answered %+v", resp.Error)
		}
		lines = append(lines, *resp.LogLine)
	}
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }
