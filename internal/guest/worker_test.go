package guest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

func (m *machine) worker() guestproto.WorkerStatus {
	m.t.Helper()
	return *m.must(guestproto.Request{WorkerStatus: true}).WorkerStatus
}

func (m *machine) sleepPrep(secs int) *guestproto.SleepPrepAck {
	m.t.Helper()
	return m.must(guestproto.Request{SleepPrep: &guestproto.SleepPrep{DrainTimeoutSecs: secs}}).SleepPrepAck
}

func TestWorkerFlags(t *testing.T) {
	m := newMachine(t)
	if s := m.worker(); s.Status != "idle" || s.LastBusyAt != nil || s.Reason != "" {
		t.Errorf("without flags: %+v", s)
	}
	writeFile(t, m.paths.Run+"/worker-idle", "")
	writeFile(t, m.paths.Run+"/worker-busy", "")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(m.paths.Run+"/worker-idle", old, old); err != nil {
		t.Fatal(err)
	}
	if s := m.worker(); s.Status != "busy" || s.Reason != "worker-busy is set" || s.LastBusyAt == nil || time.Since(*s.LastBusyAt) > time.Minute {
		t.Errorf("with a newer worker-busy: %+v", s)
	}
	ended := time.Now().Add(time.Hour).Truncate(time.Second)
	if err := os.Chtimes(m.paths.Run+"/worker-idle", ended, ended); err != nil {
		t.Fatal(err)
	}
	if s := m.worker(); s.Status != "idle" || !s.LastBusyAt.Equal(ended) {
		t.Errorf("with a newer worker-idle: %+v, want busy until %s", s, ended)
	}
}

func TestBusyURL(t *testing.T) {
	var body atomic.Value
	body.Store(`{"busy":true}`)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, body.Load())
	}))
	defer srv.Close()
	m := newMachine(t, workload.Service{Name: "app", Command: sh("exec sleep 1000"), Busy: srv.URL + "/busy"})
	m.mustConfigure(boot())
	m.awaitState("app", "ready")
	for answer, want := range map[string]string{`{"busy":true}`: "busy", `{"busy":false}`: "idle", `{}`: "busy", `gibberish`: "busy"} {
		body.Store(answer)
		if got := m.worker().Status; got != want {
			t.Errorf("the workload answers %s: %s, want %s", answer, got, want)
		}
	}
}

// TestTroubleOfAService: what of a ready service does not work is in its status, and messages
// are held back meanwhile; the worker is not busy by that.
func TestTroubleOfAService(t *testing.T) {
	var body atomic.Value
	body.Store(`{"busy":false,"trouble":"chats are off"}`)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, body.Load())
	}))
	defer srv.Close()
	m := newMachine(t, workload.Service{Name: "app", Command: sh("exec sleep 1000"), Busy: srv.URL + "/busy"})
	m.mustConfigure(boot())
	m.awaitState("app", "ready")
	preflight := func() guestproto.PreflightAck {
		return *m.must(guestproto.Request{Preflight: true}).PreflightAck
	}
	if got := preflight(); got.Safe || !got.Held || !got.Broken || got.Reason != "app: chats are off" {
		t.Errorf("preflight: %+v", got)
	}
	s := m.must(guestproto.Request{Status: true}).Status
	if !s.Ready || s.Services[0].State != "ready" || s.Services[0].Detail != "chats are off" {
		t.Errorf("status: %+v", s)
	}
	if s := m.worker(); s.Status != "idle" {
		t.Errorf("worker: %+v", s)
	}
	body.Store(`{"busy":false}`)
	if got := preflight(); !got.Safe || got.Held || got.Broken {
		t.Errorf("mended: %+v", got)
	}
	if d := m.must(guestproto.Request{Status: true}).Status.Services[0].Detail; d != "" {
		t.Errorf("mended: detail %q", d)
	}
}

func TestSleepPrepDrains(t *testing.T) {
	m := newMachine(t)
	if ack := m.sleepPrep(0); !ack.Success {
		t.Errorf("idle: %+v", ack)
	}
	m.router.setActive(2)
	if s := m.worker(); s.Status != "busy" || s.Reason != "2 requests are under way" || s.LastBusyAt == nil {
		t.Errorf("a gateway with requests under way: %+v", s)
	}
	ack := m.sleepPrep(1)
	if ack.Success || !strings.Contains(*ack.Detail, "2 requests") {
		t.Errorf("with requests under way: %+v", ack)
	}
	if ops := m.sys.did(); len(ops) != 2 || ops[1] != "sync" {
		t.Errorf("operations %v, want a sync each time, also without success", ops)
	}
	time.AfterFunc(50*time.Millisecond, func() { m.router.setActive(0) })
	if ack := m.sleepPrep(20); !ack.Success {
		t.Errorf("requests that end meanwhile: %+v", ack)
	}
}

// A host that changes its mind hangs up, and the drain ends.
func TestSleepPrepEndsWhenTheHostHangsUp(t *testing.T) {
	m := newMachine(t)
	m.router.setActive(1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	conn := m.dial()
	if _, err := guestproto.Call(ctx, conn, guestproto.Request{SleepPrep: &guestproto.SleepPrep{DrainTimeoutSecs: 3600}}); err == nil {
		t.Fatal("drained with a request under way")
	}
	conn.Close()
	eventually(t, "the drain has ended with a sync", func() bool {
		ops := m.sys.did()
		return len(ops) == 1 && ops[0] == "sync"
	})
}

func (m *machine) integrations() map[string]guestproto.IntegrationState {
	m.t.Helper()
	states := map[string]guestproto.IntegrationState{}
	for _, s := range m.must(guestproto.Request{IntegrationStatus: true}).IntegrationStatusReport.Integrations {
		states[s.Name] = s
	}
	return states
}

func (m *machine) awaitIntegration(name, status string) {
	m.t.Helper()
	eventually(m.t, name+" is "+status, func() bool { return strings.HasPrefix(string(m.integrations()[name].Status), status) })
}

func TestIntegrations(t *testing.T) {
	m := newMachine(t, workload.Service{Name: "app", Command: sh("exec sleep 1000")})
	c := boot()
	c.Env = map[string]string{"WORD": "hello"}
	c.Integrations = []mvm.Integration{
		{Name: "telegram", CheckpointCmd: `echo $WORD >"$MVM_INTEGRATION_STATE/s"`, RestoreCmd: `echo again >>"$MVM_INTEGRATION_STATE/restored"`},
		{Name: "broken", CheckpointCmd: "echo no way; exit 3", RestoreCmd: "exit 4"},
	}
	m.mustConfigure(c)
	m.awaitIntegration("telegram", `"active"`)
	m.awaitIntegration("broken", `{"error":"exited with code 4`)
	r := m.must(guestproto.Request{CheckpointIntegrations: &guestproto.CheckpointIntegrations{Integrations: []string{"telegram", "broken", "ghost"}}}).CheckpointResult
	if r.Success || len(r.Failed) != 2 || r.Failed[0] != "broken" || r.Failed[1] != "ghost" || !strings.Contains(*r.Detail, "code 3: no way") {
		t.Errorf("CheckpointResult %+v, %v", r, r.Detail)
	}
	s := m.integrations()["telegram"]
	if string(s.Status) != `"paused"` || s.LastCheckpointAt == nil || time.Since(*s.LastCheckpointAt) > time.Hour || s.StateSizeBytes != 12 {
		t.Errorf("after the checkpoint: %+v", s)
	}
	if got := readFile(t, m.paths.Data+"/integrations/telegram/state/s"); got != "hello\n" {
		t.Errorf("the state is %q", got)
	}
	if m.must(guestproto.Request{Wake: true}).WakeAck.Success {
		t.Error("WakeAck of a failing restore_cmd is a success")
	}
	c.Reason, c.Integrations = "update", c.Integrations[:1]
	m.mustConfigure(c)
	if !m.must(guestproto.Request{Wake: true}).WakeAck.Success {
		t.Error("WakeAck is no success")
	}
	if got := readFile(t, m.paths.Data+"/integrations/telegram/state/restored"); got != "again\nagain\n" {
		t.Errorf("restored %q, want once at boot and once at the wake", got)
	}
}

// An integration's command ends with its time, and all that it has started with it.
func TestIntegrationTimeLimit(t *testing.T) {
	m := newMachine(t)
	c := boot()
	c.Integrations = []mvm.Integration{{Name: "slow", TimeoutSeconds: 1,
		CheckpointCmd: `sleep 1000 & echo $! >"$MVM_INTEGRATION_STATE/pid"; echo begun; wait`}}
	m.mustConfigure(c)
	began := time.Now()
	r := m.must(guestproto.Request{CheckpointIntegrations: &guestproto.CheckpointIntegrations{Integrations: []string{"slow"}}}).CheckpointResult
	if r.Success || !strings.Contains(*r.Detail, "slow: not done within 1s: begun") || time.Since(began) > patience {
		t.Errorf("result %+v, %q", r, *r.Detail)
	}
	pid := strings.TrimSpace(readFile(t, m.paths.Data+"/integrations/slow/state/pid"))
	eventually(t, "what the command started is gone", func() bool { _, err := os.Stat("/proc/" + pid); return os.IsNotExist(err) })
	if got := readFile(t, m.paths.Config+"/integrations.json"); !strings.Contains(got, `"timeout_seconds": 1`) {
		t.Errorf("integrations.json: %s", got)
	}
	c.Reason, c.Integrations = "update", nil
	m.mustConfigure(c)
	if got := readFile(t, m.paths.Config+"/integrations.json"); got != "" {
		t.Errorf("integrations.json without integrations: %s", got)
	}
}

// The workload owns what is below /data: nothing that it links must be written.
func TestIntegrationsStayBelowData(t *testing.T) {
	m := newMachine(t)
	victim := m.dir + "/victim"
	if err := os.MkdirAll(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, m.paths.Data+"/integrations"); err != nil {
		t.Fatal(err)
	}
	c := boot()
	c.Integrations = []mvm.Integration{{Name: "telegram", CheckpointCmd: "true"}}
	m.mustConfigure(c)
	r := m.must(guestproto.Request{CheckpointIntegrations: &guestproto.CheckpointIntegrations{}}).CheckpointResult
	if left, err := os.ReadDir(victim); r.Success || err != nil || len(left) != 0 {
		t.Errorf("result %+v, the link's target holds %v, %v", r, left, err)
	}
}
