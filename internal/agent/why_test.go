package agent_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
)

func (h *host) why(id string) mvm.Story {
	h.t.Helper()
	s, err := h.a.Why(ctx(h.t), mvm.Address{Instance: id})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// The record of an instance tells of each of its transitions who, why, how, and from
// and to what; it is there after a restart of the agent.
func TestWhyTellsEveryTransition(t *testing.T) {
	h := newHost(t)
	broken := 0
	h.opt.Fail = func(op fake.Op, _ string) error {
		if op == fake.OpRestore && broken > 0 {
			broken--
			return errBadSnapshot
		}
		return nil
	}
	h.start()
	i := h.instance()
	asked := mvm.WithRequest(ctx(t), "r-sleep")
	if _, err := h.a.Operate(asked, i.Address(), mvm.OpRequest{Op: mvm.OpSleep, Why: "tidy up"}, nil); err != nil {
		t.Fatal(err)
	}
	h.do(i.ID, mvm.OpWake)
	h.do(i.ID, mvm.OpSleep)
	broken = 2
	h.do(i.ID, mvm.OpWake)
	h.stop()
	h.start()
	all := h.why(i.ID).Transitions
	var got []string
	for _, tr := range all {
		got = append(got, strings.TrimSpace(string(tr.Op)+" "+string(tr.From)+">"+string(tr.To)+" "+tr.Kind))
	}
	want := "start ready>running cold, sleep running>sleeping, wake sleeping>running warm, sleep running>sleeping, wake sleeping>running cold"
	if s := strings.Join(got, ", "); !strings.HasPrefix(s, want) {
		t.Fatalf("got  %s\nwant %s", s, want)
	}
	slept, woken, cold := all[1], all[2], all[4]
	if slept.Request != "r-sleep" || slept.Why != "tidy up" || slept.By != (mvm.Asker{Kind: mvm.AskerUnknown, ID: "test"}) || slept.SnapshotBytes == 0 || slept.Image != i.Image || !strings.HasPrefix(slept.VMM, "fake ") {
		t.Errorf("sleep: %+v", slept)
	}
	if woken.SnapshotBytes != slept.SnapshotBytes || woken.VMM != slept.VMM || len(woken.Stages) == 0 || woken.Request != "" {
		t.Errorf("wake: %+v", woken)
	}
	if !strings.Contains(cold.Reason, "snapshot not used") || cold.SnapshotBytes != 0 || cold.VMM != slept.VMM {
		t.Errorf("cold wake: %+v", cold)
	}
}

// A try that fails is on record with its reason; many alike are one, with their number.
func TestWhyTellsWhatFailed(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	h.do(w.ID, mvm.OpSleep)
	quota := mvm.DefaultQuota()
	quota.MaxRunning = 1
	if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if r := h.ask(gw.ID, guestproto.HostRequest{WakeInstance: name(w)}).WakeResult; r == nil || r.Success {
			t.Fatalf("over the quota: %+v", r)
		}
	}
	s := h.why(w.ID)
	last := s.Transitions[len(s.Transitions)-1]
	failed := 0
	for _, tr := range s.Transitions {
		if tr.Error != "" {
			failed++
		}
	}
	if failed != 1 || last.Op != mvm.OpWake || !strings.Contains(last.Error, "quota") || last.To != mvm.StateSleeping || last.By != mvm.ParseAsker("gateway:"+gw.ID) {
		t.Errorf("%d failures on record, the last %+v", failed, last)
	}
	if len(s.Notes) == 0 || s.Notes[0].Action != mvm.QuotaExceeded {
		t.Errorf("notes %+v, want the quota's refusal", s.Notes)
	}
}

// One id goes from who asks through the agent's log, record and audit log into the
// guest's log.
func TestRequestIDGoesAllTheWay(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	h.do(w.ID, mvm.OpSleep)
	h.do(w.ID, mvm.OpStop)
	r := h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{PoolID: "workers", RequestID: "client-42"}}).AcquireResult
	if r == nil || !r.Success {
		t.Fatalf("acquire: %+v", r)
	}
	if tr := h.why(w.ID).Transitions; tr[len(tr)-1].Request != "client-42" {
		t.Errorf("the record has request %q", tr[len(tr)-1].Request)
	}
	if log := h.logged(); !strings.Contains(log, "op=start") && !strings.Contains(log, "op=wake") || !strings.Contains(log, "request=client-42") {
		t.Errorf("the agent's log does not have the request:\n%s", log)
	}
	found := false
	err := h.a.Events(ctx(t), mvm.EventFilter{Instance: w.ID}, func(e mvm.Event) error {
		found = found || e.Action == mvm.InstanceStarted && e.Request == "client-42"
		return nil
	})
	if err != nil || !found {
		t.Errorf("the audit log does not have the request: %v", err)
	}
	var guest strings.Builder
	err = h.a.Logs(ctx(t), mvm.Address{Instance: w.ID}, mvm.LogsSpec{}, func(l mvm.LogLine) error { guest.WriteString(l.Text + "\n"); return nil })
	if err != nil || !strings.Contains(guest.String(), "what=Configure request=client-42") {
		t.Errorf("the guest's log does not have the request: %v\n%s", err, guest.String())
	}
	if r := h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{PoolID: "none", RequestID: "evil\nlevel=ERROR"}}); strings.Contains(h.logged(), "evil") {
		t.Errorf("a guest wrote into the log: %+v", r)
	}
}

// Nothing of a secret is in the agent's log, at any level, nor in the audit log.
func TestSecretsAreNotLogged(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	const one, two = "hunter2-first-value", "hunter2-second-value"
	for _, v := range []string{one, two} {
		if _, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"api_key": []byte(v)}); err != nil {
			t.Fatal(err)
		}
		if got := h.exec(i.ID, "cat", "/run/secrets/api_key"); got != v {
			t.Errorf("the guest has %q", got)
		}
		h.do(i.ID, mvm.OpSleep)
		h.do(i.ID, mvm.OpWake)
	}
	if _, err := h.a.RotateSecrets(ctx(t), "acme"); err != nil {
		t.Fatal(err)
	}
	h.do(i.ID, mvm.OpStop)
	log := h.logged()
	err := h.a.Events(ctx(t), mvm.EventFilter{}, func(e mvm.Event) error { log += e.Detail + e.Why; return nil })
	if err != nil || strings.Contains(log, "hunter2") {
		t.Errorf("the log has a secret: %v\n%s", err, log)
	}
	if !strings.Contains(log, "operation done") {
		t.Error("the log was not looked at")
	}
}

// logBuffer is the agent's whole log.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (h *host) logged() string {
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	return h.log.b.String()
}

// logger writes to the test's output, and all levels to logged.
func (h *host) logger() *slog.Logger {
	return slog.New(slog.NewMultiHandler(slog.NewTextHandler(h.t.Output(), nil),
		slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
}
