package guest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// workload is a service's HTTP side: it can hold still and be told of secrets.
type workloadServer struct {
	*httptest.Server
	mu    sync.Mutex
	busy  string // why it is not ready to hold still
	fails bool   // it answers with errors
	lease int
	held  bool
	mute  int // how often it does not answer
	asked []string
}

func newWorkload(t *testing.T) *workloadServer {
	w := &workloadServer{}
	w.Server = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(w.Close)
	return w
}

func (w *workloadServer) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, _ := io.ReadAll(r.Body)
	var req struct {
		Action string `json:"action"`
	}
	_ = json.Unmarshal(b, &req)
	w.asked = append(w.asked, strings.TrimPrefix(r.URL.Path+" "+req.Action, "/"))
	switch {
	case w.mute > 0:
		w.mute--
		<-r.Context().Done() // who asks gives up
	case w.fails:
		rw.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(rw, `{"error":"not now"}`)
	case r.URL.Path == "/busy":
		fmt.Fprintf(rw, `{"busy":%v,"reason":%q}`, w.busy != "", w.busy)
	case req.Action == "resume":
		w.held = false
		fmt.Fprint(rw, `{"state":"running"}`)
	case req.Action == "suspend" && w.busy != "":
		fmt.Fprintf(rw, `{"state":"waiting","reason":%q}`, w.busy)
	case req.Action == "suspend":
		w.held = true
		fmt.Fprintf(rw, `{"state":"ready","lease_ms":%d}`, w.lease)
	default:
		fmt.Fprint(rw, "{}")
	}
}

func (w *workloadServer) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *workloadServer) isHeld() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held
}

func (w *workloadServer) count(what string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.asked {
		if strings.TrimSpace(a) == what {
			n++
		}
	}
	return n
}

func (m *machine) suspend(secs int) *guestproto.SuspendAck {
	m.t.Helper()
	return m.must(guestproto.Request{Suspend: &guestproto.Suspend{DrainTimeoutSecs: secs}}).SuspendAck
}

func (m *machine) settle() *guestproto.SettleAck {
	m.t.Helper()
	return m.must(guestproto.Request{Settle: true}).SettleAck
}

func suspending(t *testing.T) (*workloadServer, *machine) {
	w := newWorkload(t)
	m := newMachine(t, workload.Service{Name: "app", Command: sh("exec sleep 1000"), Suspend: w.URL + "/suspend", Busy: w.URL + "/busy"},
		workload.Service{Name: "other", Command: sh("exec sleep 1000")})
	if ack := m.configure(boot()); !ack.Success || !ack.Suspends || ack.Settling {
		t.Fatalf("configure: %+v", ack)
	}
	m.awaitState("app", "ready")
	m.awaitState("other", "ready")
	return w, m
}

func TestSuspendAndGoOn(t *testing.T) {
	w, m := suspending(t)
	w.set(func() { w.lease = 120_000 })
	if ack := m.suspend(0); !ack.Success || ack.LeaseMS != 120_000 || !w.isHeld() {
		t.Fatalf("suspend: %+v, held %v", ack, w.isHeld())
	}
	m.awaitIntegration("app", `"paused"`)
	w.set(func() { w.busy = "it would say so" })
	if s := m.worker(); s.Status != "idle" || w.count("busy") != 0 {
		t.Errorf("a service that holds still was asked whether it is busy: %+v", s)
	}
	if ack := m.settle(); !ack.Success || w.isHeld() {
		t.Errorf("settle: %+v, held %v", ack, w.isHeld())
	}
	m.awaitIntegration("app", `"active"`)
	if s := m.worker(); s.Status != "busy" {
		t.Errorf("after it went on: %+v", s)
	}
}

// TestSuspendOfTheBusy: what has not finished in time goes on at once, and so does all else.
func TestSuspendOfTheBusy(t *testing.T) {
	w, m := suspending(t)
	w.set(func() { w.busy = "a turn is running" })
	ack := m.suspend(1)
	if ack.Success || ack.Detail == nil || !strings.Contains(*ack.Detail, "app: busy: a turn is running") {
		t.Fatalf("suspend: %+v", ack)
	}
	eventually(t, "it is told to go on", func() bool { return w.count("suspend resume") == 1 })
	m.awaitIntegration("app", `{"error":"app: busy`)
	if n := w.count("suspend suspend"); n < 2 {
		t.Errorf("asked %d times within a second, want several", n)
	}
	go func() { // it becomes ready while the host waits
		time.Sleep(50 * time.Millisecond)
		w.set(func() { w.busy = "" })
	}()
	if ack := m.suspend(20); !ack.Success || !w.isHeld() {
		t.Errorf("once it is idle: %+v", ack)
	}
	w.set(func() { w.fails = true })
	if ack := m.suspend(1); ack.Success || !strings.Contains(*ack.Detail, "503 Service Unavailable: not now") {
		t.Errorf("of one that answers with errors: %+v", ack)
	}
	w.set(func() { w.fails = false })
	eventually(t, "it goes on in the end", func() bool { return !w.isHeld() })
}

// TestSuspendOfTheSlow: a service that does not answer one question in time is asked again as
// long as there is time, and where there is none the instance stays awake.
func TestSuspendOfTheSlow(t *testing.T) {
	t.Parallel()
	for secs, want := range map[int]bool{0: false, 60: true} {
		t.Run(fmt.Sprint(secs, " seconds"), func(t *testing.T) {
			t.Parallel()
			w, m := suspending(t)
			w.set(func() { w.mute = 1 })
			if ack := m.suspend(secs); ack.Success != want || w.isHeld() != want {
				t.Errorf("suspend: %+v, held %v; want success %v", ack, w.isHeld(), want)
			}
		})
	}
}

// TestWakeGoesOnByItself: a guest that runs again tells its services without being asked.
func TestWakeGoesOnByItself(t *testing.T) {
	w, m := suspending(t)
	for name, wake := range map[string]func(){
		"configure": func() {
			c := boot()
			c.Reason, c.Generation = "wake", 2
			if ack := m.configure(c); !ack.Success || !ack.Settling {
				t.Errorf("configure: %+v", ack)
			}
		},
		"greeting": func() { m.agent.Resume(guestproto.Resume{UnixNanos: time.Now().UnixNano()}.Encode()) },
	} {
		if ack := m.suspend(0); !ack.Success {
			t.Fatalf("%s: suspend: %+v", name, ack)
		}
		c := boot()
		c.Reason, c.Generation = "update", 2
		if ack := m.configure(c); !ack.Success || ack.Settling || !w.isHeld() {
			t.Errorf("%s: an update while it holds still: %+v, held %v", name, ack, w.isHeld())
		}
		wake()
		eventually(t, name+" has it go on", func() bool { return !w.isHeld() })
	}
}

// tellingService is told of secrets in the way of o.
func tellingService(o workload.OnSecrets, script string) workload.Service {
	return workload.Service{Name: "app", Command: sh(script), OnSecrets: &o}
}

func withSecret(reason, value string) guestproto.Configure {
	c := boot()
	c.Reason, c.Secrets = reason, map[string][]byte{"token": []byte(value)}
	return c
}

// TestServicesAreToldOfSecrets: by signal, command and URL, once for changes that come
// together, and not at the boot.
func TestServicesAreToldOfSecrets(t *testing.T) {
	w := newWorkload(t)
	dir := t.TempDir()
	told := dir + "/told"
	for name, c := range map[string]struct {
		on     workload.OnSecrets
		script string
		times  func() int
	}{
		"signal": {workload.OnSecrets{Signal: "HUP"}, "trap 'echo told >>" + told + "' HUP; touch " + dir + "/up; while :; do sleep 0.05; done",
			func() int { return strings.Count(readFile(t, told), "told") }},
		"command": {workload.OnSecrets{Command: sh("echo told >>" + told)}, "touch " + dir + "/up; exec sleep 1000",
			func() int { return strings.Count(readFile(t, told), "told") }},
		"http": {workload.OnSecrets{HTTP: w.URL + "/secrets"}, "touch " + dir + "/up; exec sleep 1000", func() int { return w.count("secrets") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := tellingService(c.on, c.script)
			s.Ready = &workload.Ready{File: dir + "/up", IntervalMS: 10}
			m := newMachine(t, s)
			m.mustConfigure(withSecret("boot", "one"))
			m.awaitState("app", "ready")
			pid, before := m.service("app").PID, c.times()
			for _, v := range []string{"two", "three", "four"} {
				if ack := m.configure(withSecret("update", v)); !ack.Success || !ack.Settling {
					t.Fatalf("update: %+v", ack)
				}
			}
			if ack := m.settle(); !ack.Success {
				t.Errorf("settle: %+v", *ack.Detail)
			}
			eventually(t, "it is told", func() bool { return c.times() > before })
			if n := c.times() - before; n > 2 {
				t.Errorf("told %d times of changes that came together", n)
			}
			if ack := m.configure(withSecret("update", "four")); ack.Settling {
				t.Error("told of what has not changed")
			}
			if ack := m.configure(withSecret("wake", "five")); !ack.Settling {
				t.Error("not told of what changed while it slept")
			}
			n := c.times()
			m.settle()
			eventually(t, "it is told after the wake", func() bool { return c.times() > n || n-before > 1 })
			if got := m.service("app"); got.PID != pid || got.Restarts != 0 {
				t.Errorf("the service was restarted: %+v", got)
			}
		})
	}
}

// TestUntold: who can't be told in time is named with the reason, until it is.
func TestUntold(t *testing.T) {
	dir := t.TempDir()
	m := newMachine(t, tellingService(workload.OnSecrets{TimeoutSecs: 1,
		Command: sh("echo no way; test -e " + dir + "/slow && exec sleep 1000; test -e " + dir + "/ok")}, "exec sleep 1000"))
	m.mustConfigure(withSecret("boot", "one"))
	m.awaitState("app", "ready")
	m.mustConfigure(withSecret("update", "two"))
	if ack := m.settle(); ack.Success || !strings.Contains(*ack.Detail, "service app could not be told of new secrets: /bin/sh exited with code 1: no way") {
		t.Errorf("settle: %+v", ack)
	}
	writeFile(t, dir+"/slow", "")
	m.mustConfigure(withSecret("update", "three"))
	if ack := m.settle(); ack.Success || !strings.Contains(*ack.Detail, "not done within 1s: no way") {
		t.Errorf("settle: %+v %s", ack, *ack.Detail)
	}
	writeFile(t, dir+"/ok", "")
	if err := os.Remove(dir + "/slow"); err != nil {
		t.Fatal(err)
	}
	m.mustConfigure(withSecret("update", "four"))
	if ack := m.settle(); !ack.Success {
		t.Errorf("settle once it can be told: %s", *ack.Detail)
	}
}

// TestHeldServicesAreToldWhenTheyGoOn: one that holds still hears of secrets after it goes on.
func TestHeldServicesAreToldWhenTheyGoOn(t *testing.T) {
	w := newWorkload(t)
	m := newMachine(t, workload.Service{Name: "app", Command: sh("exec sleep 1000"), Suspend: w.URL + "/suspend",
		OnSecrets: &workload.OnSecrets{HTTP: w.URL + "/secrets"}})
	m.mustConfigure(withSecret("boot", "one"))
	m.awaitState("app", "ready")
	if ack := m.suspend(0); !ack.Success {
		t.Fatalf("suspend: %+v", ack)
	}
	m.mustConfigure(withSecret("update", "two"))
	m.mustConfigure(withSecret("wake", "three"))
	if ack := m.settle(); !ack.Success {
		t.Errorf("settle: %s", *ack.Detail)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := strings.Join(w.asked, ","); got != "suspend suspend,suspend resume,secrets " {
		t.Errorf("asked %q, want it to go on and then be told once", got)
	}
}
