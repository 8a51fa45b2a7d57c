package agent_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
)

// crashing is a guest whose service app failed so often in a row.
func crashing(fails int) fake.Behavior {
	code := 3
	return fake.Behavior{Log: []string{"connecting to the database", "fatal: no database"},
		Services: []guestproto.ServiceStatus{{Name: "setup", State: "done"},
			{Name: "app", State: "backoff", Restarts: fails - 1, Fails: fails, ExitCode: &code, Detail: "exited with code 3"}}}
}

// wantCrash checks that the error says which service fails, how, and its last lines.
func wantCrash(t *testing.T, err error) {
	t.Helper()
	if !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Fatalf("error of kind %q, want unavailable: %v", mvm.KindOf(err), err)
	}
	for _, want := range []string{"service app is failing (exited with code 3), 2 restarts", "\n| connecting to the database\n| fatal: no database"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error has no %q:\n%v", want, err)
		}
	}
}

// TestCrashLoopEndsTheWait: a service that fails again and again ends every wait for it at
// once, with its exit code, restarts and last lines, and is seen wherever one looks. When it
// comes up after all the guest's word is enough.
func TestCrashLoopEndsTheWait(t *testing.T) {
	h := newHost(t)
	h.host.Behave("", crashing(3))
	h.start()
	err := h.apply(deployment(desired(worker("workers"), 1, 0, 0)))
	wantCrash(t, err)
	i := h.all("workers")[0]
	if i.State != mvm.StateRunning || i.Health == nil || i.Health.Status != mvm.HealthFailing {
		t.Fatalf("%s with health %+v, want running and failing", i.State, i.Health)
	}
	if w := i.Health.Worst(); w == nil || w.Name != "app" || w.Restarts != 2 || w.ExitCode == nil || *w.ExitCode != 3 {
		t.Errorf("worst service %+v", w)
	}
	if i.Problem == "" || strings.Contains(i.Problem, "database") {
		t.Errorf("problem %q, want one, without what the service logged", i.Problem)
	}
	if n := len(h.recorded(mvm.LogsRead)); n != 0 {
		t.Errorf("%d logs were read by a tenant's client before one did", n)
	}
	if _, err := h.a.Why(mvm.WithRecord(ctx(t)), i.Address()); err != nil {
		t.Fatal(err)
	}
	h.wantRecorded(mvm.LogsRead, mvm.Asker{Kind: mvm.AskerUnknown, ID: "test"}, "app")
	if s := h.why(i.ID); s.LastOf != "app" || strings.Join(s.LastLines, "|") != "connecting to the database|fatal: no database" {
		t.Errorf("why has %q of %q", s.LastLines, s.LastOf)
	} else if last := s.Transitions[len(s.Transitions)-1]; strings.Contains(last.Error, "database") {
		t.Errorf("the record has what the service logged: %s", last.Error)
	}
	p, err := h.a.Pool(ctx(t), "acme", "workers")
	if err != nil || p.Health == nil || p.Health.Failing != 1 || len(p.Health.Troubles) != 1 {
		t.Errorf("pool health %+v, %v", p.Health, err)
	}
	wantCrash(t, h.apply(deployment(desired(worker("workers"), 1, 0, 0))))
	wantCrash(t, h.try(i.ID, mvm.OpStart))

	h.host.Behave("", fake.Behavior{})
	h.ask(i.ID, guestproto.HostRequest{ReportHealth: &guestproto.Status{Ready: true, Version: 1 << 40,
		Services: []guestproto.ServiceStatus{{Name: "app", State: "ready", Restarts: 3, Fails: 3}}}}) // it has still to prove itself
	if i = h.get(i.ID); !i.Ready || i.Problem != "" || i.Health.Status != mvm.HealthReady {
		t.Errorf("ready %v, problem %q, health %+v after the guest's word", i.Ready, i.Problem, i.Health)
	}
	if err := h.apply(deployment(desired(worker("workers"), 1, 0, 0))); err != nil {
		t.Errorf("deploy when it is ready: %v", err)
	}
}

// TestFailedForGoodEndsTheWait: a definition that can't be parsed is final at the first look.
func TestFailedForGoodEndsTheWait(t *testing.T) {
	h := newHost(t)
	h.host.Behave("", fake.Behavior{Services: []guestproto.ServiceStatus{{Name: "app", State: "failed", Detail: "command is empty"}}})
	h.start()
	err := h.apply(deployment(desired(worker("workers"), 1, 0, 0)))
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "service app is failing (command is empty)") {
		t.Errorf("deploy = %v, want the reason", err)
	}
}

// TestOldGuestsCrashLoop: a guest of an older mvm counts no failures and reports nothing; the
// restarts that it does count end the wait too.
func TestOldGuestsCrashLoop(t *testing.T) {
	h := newHost(t)
	b := crashing(3)
	b.Services[1].Fails, b.Services[1].ExitCode, b.NoHealth = 0, nil, true
	h.host.Behave("", b)
	h.start()
	wantCrash(t, h.apply(deployment(desired(worker("workers"), 1, 0, 0))))
	h.host.Behave("", fake.Behavior{NoHealth: true})
	i := h.all("workers")[0]
	h.do(i.ID, mvm.OpStop)
	if i = h.do(i.ID, mvm.OpStart); i.Problem != "" || h.get(i.ID).Health != nil {
		t.Errorf("problem %q, health %+v of an old guest that is ready", i.Problem, h.get(i.ID).Health)
	}
}

// TestBrokenPoolIsMended: what was deployed and does not come up anywhere is mended by the
// next deploy, though no instance serves while another is restarted.
func TestBrokenPoolIsMended(t *testing.T) {
	h := newHost(t)
	h.every = 0
	h.host.Behave("", crashing(3))
	h.start()
	spec := desired(worker("workers"), 2, 0, 0)
	wantCrash(t, h.apply(deployment(spec)))
	eventually(t, "both run and fail", func() bool {
		all := h.all("workers")
		return len(all) == 2 && all[0].Problem != "" && all[1].Problem != ""
	})
	h.host.Behave("", fake.Behavior{})
	spec.Env = map[string]string{"MENDED": "yes"}
	if err := h.apply(deployment(spec)); err != nil {
		t.Errorf("deploy of the mended pool: %v", err)
	}
	for _, i := range h.all("workers") {
		if got := guestOf(h, i).Env["MENDED"]; i.State != mvm.StateRunning || !i.Ready || got != "yes" {
			t.Errorf("%s is %s, ready %v, with MENDED=%q", i.ID, i.State, i.Ready, got)
		}
	}
}

// TestUsersCrashLoopIsNotTheDeployments: one user's assistant that fails after it had come
// up does not fail the tenant's deployments.
func TestUsersCrashLoopIsNotTheDeployments(t *testing.T) {
	h := newHost(t)
	h.start()
	d := deployment(desired(worker("workers"), 0, 0, 0))
	if err := h.apply(d); err != nil {
		t.Fatal(err)
	}
	r, err := h.a.CreateInstance(ctx(t), "acme", "workers", "ann")
	if err != nil {
		t.Fatal(err)
	}
	h.do(r.ID, mvm.OpStart)
	h.ask(r.ID, guestproto.HostRequest{ReportHealth: &guestproto.Status{Version: 1 << 40,
		Services: []guestproto.ServiceStatus{{Name: "app", State: "backoff", Restarts: 4, Fails: 5}}}})
	if i := h.get(r.ID); i.Health == nil || i.Health.Status != mvm.HealthFailing {
		t.Fatalf("health %+v, want failing", i.Health)
	}
	if err := h.apply(d); err != nil {
		t.Errorf("deploy: %v", err)
	}
}

// TestOldGuestThatWasReady: how often a service of an older guest was started ever does not
// say that it fails now.
func TestOldGuestThatWasReady(t *testing.T) {
	h := newHost(t)
	h.host.Behave("", fake.Behavior{NoHealth: true})
	h.start()
	i := h.instance()
	h.ask(i.ID, guestproto.HostRequest{ReportHealth: &guestproto.Status{Services: []guestproto.ServiceStatus{{Name: "app", State: "backoff", Restarts: 7}}}})
	if got := h.get(i.ID).Health; got != nil {
		t.Errorf("health %+v, want nothing known", got)
	}
	if err := h.try(i.ID, mvm.OpStart); err != nil {
		t.Errorf("start of what runs: %v", err)
	}
}

// TestOneFailureIsWaitedFor: a service that failed once or twice is not given up.
func TestOneFailureIsWaitedFor(t *testing.T) {
	h := newHost(t)
	h.host.Behave("", crashing(2))
	h.start()
	done := make(chan error, 1)
	go func() { done <- h.apply(deployment(desired(worker("workers"), 1, 0, 0))) }()
	eventually(t, "it is seen failing", func() bool {
		is, err := h.a.Instances(ctx(t), mvm.Address{})
		return err == nil && len(is) == 1 && is[0].Health != nil && is[0].Health.Status == mvm.HealthFailing
	})
	h.host.Behave("", fake.Behavior{})
	if err := <-done; err != nil {
		t.Errorf("deploy = %v", err)
	}
}

// TestRequestsToAFailingWorker: a gateway that asks for a worker whose service does not come
// up gets that answer and does not wait; for one that starts it waits.
func TestRequestsToAFailingWorker(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	acquire := func() *guestproto.AcquireResult {
		return h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers"}}).AcquireResult
	}
	h.do(w.ID, mvm.OpStop)
	h.host.Behave(w.ID, crashing(3))
	for _, when := range []string{"that is started for it", "that runs"} {
		if r := acquire(); r.Success || !r.Failing || r.RetrySecs == 0 || strings.Contains(*r.Detail, "database") {
			t.Errorf("a worker %s: %+v (%s), want failing", when, r, *r.Detail)
		}
	}
	began := h.operations()
	acquire()
	if now := h.operations(); now != began {
		t.Errorf("a request for a worker that fails began %d operations", now-began)
	}
	h.do(w.ID, mvm.OpStop)
	h.host.Behave(w.ID, fake.Behavior{ReadyAfter: time.Second})
	if r := acquire(); !r.Success {
		t.Errorf("a worker that starts: %s", *r.Detail)
	}
}

// operations counts those that have ended.
func (h *host) operations() int {
	h.metrics.mu.Lock()
	defer h.metrics.mu.Unlock()
	return len(h.metrics.ops)
}

// TestHealthIsInMemory: what a guest reports of its services is not written, and the agent
// learns it anew after a restart.
func TestHealthIsInMemory(t *testing.T) {
	h := newHost(t)
	var commits atomic.Int32
	h.storeSeam = func(op string) error {
		if op == "commit" {
			commits.Add(1)
		}
		return nil
	}
	h.start()
	i := h.instance()
	before := commits.Load()
	for n := range 10 {
		s := guestproto.Status{Version: 1<<40 + uint64(n), Services: []guestproto.ServiceStatus{{Name: "app", State: "backoff", Fails: n + 1, Detail: strings.Repeat("x", 5000)}}}
		if r := h.ask(i.ID, guestproto.HostRequest{ReportHealth: &s}); !r.HealthAck {
			t.Fatalf("answer %+v", r)
		}
	}
	if n := commits.Load() - before; n != 0 {
		t.Errorf("ten reports made %d writes", n)
	}
	got := h.get(i.ID).Health
	if got.Status != mvm.HealthFailing || got.Services[0].Fails != 10 || len(got.Services[0].Detail) > 400 {
		t.Errorf("health %+v", got)
	}
	old := guestproto.Status{Ready: true, Version: 7}
	h.ask(i.ID, guestproto.HostRequest{ReportHealth: &old})
	if got := h.get(i.ID).Health; got.Status != mvm.HealthFailing {
		t.Errorf("an older word counts: %+v", got)
	}
	h.do(i.ID, mvm.OpSleep)
	if got := h.get(i.ID).Health; got != nil {
		t.Errorf("a sleeper has health %+v", got)
	}
	h.do(i.ID, mvm.OpWake)
	if got := h.get(i.ID).Health; got == nil || got.Status != mvm.HealthFailing {
		t.Errorf("after a wake: %+v, want what was known", got)
	}
	h.stop()
	h.host.Behave("", crashing(1))
	h.start()
	eventually(t, "the guest is asked after a restart", func() bool { got := h.get(i.ID).Health; return got != nil && got.Services[0].Name == "setup" })
}

// TestManyServices: what is kept of a guest's word is bounded.
func TestManyServices(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	s := guestproto.Status{Version: 1 << 40}
	for n := range 500 {
		s.Services = append(s.Services, guestproto.ServiceStatus{Name: fmt.Sprint(n, strings.Repeat("n", 100)), State: "backoff\x1b[2J"})
	}
	h.ask(i.ID, guestproto.HostRequest{ReportHealth: &s})
	got := h.get(i.ID).Health
	if len(got.Services) != 64 || len(got.Services[0].Name) > 70 {
		t.Errorf("%d services, the first %q", len(got.Services), got.Services[0].Name)
	}
}

// TestStalled: an instance whose VM stands still says so, and whatever needs its guest fails
// at once with the reason.
func TestStalled(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	const why = "the host's disk is full: the VM stands still until there is room"
	h.host.Behave(w.ID, fake.Behavior{Stalled: why, Silent: true})
	if i := h.get(w.ID); i.Stalled != why {
		t.Errorf("stalled %q", i.Stalled)
	}
	_, err := h.a.Exec(ctx(t), w.Address(), mvm.ExecSpec{Argv: []string{"true"}}, mvm.ExecIO{})
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), why) {
		t.Errorf("exec = %v", err)
	}
	if err := h.try(w.ID, mvm.OpStart); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("start = %v", err)
	}
	r := h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers"}}).AcquireResult
	if r.Success || r.RetrySecs == 0 {
		t.Errorf("acquire: %+v", r)
	}
	h.host.Behave(w.ID, fake.Behavior{})
	h.exec(w.ID, "hostname")

	// A command that runs when the VM comes to stand still says so, and goes on with it.
	said := &logBuffer{}
	done := make(chan error, 1)
	go func() {
		_, err := h.a.Exec(ctx(t), w.Address(), mvm.ExecSpec{Argv: []string{"sleep", "5"}}, mvm.ExecIO{Stdout: said, Stderr: said})
		done <- err
	}()
	eventually(t, "the command runs", func() bool { return strings.Count(strings.Join(h.host.Trace(), "\n"), "guest "+w.ID+" Exec") == 2 })
	h.host.Behave(w.ID, fake.Behavior{Stalled: why})
	eventually(t, "it is told of the stall", func() bool { return strings.Contains(said.text(), why) })
	h.host.Behave(w.ID, fake.Behavior{})
	eventually(t, "it is told that it goes on", func() bool { return strings.Contains(said.text(), "goes on") })
	if err := <-done; err != nil {
		t.Errorf("exec = %v", err)
	}
}

// eventually waits until it is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	testenv.Eventually(t, 30*time.Second, func() error {
		if !is() {
			return errors.New(what + ": not yet")
		}
		return nil
	})
}

// text is what was written.
func (l *logBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestServiceThatIsNeverReady: the wait for a service that does not come up ends with what
// the service said last, and the instance goes on saying that it is not ready, without that.
func TestServiceThatIsNeverReady(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		h.do(i.ID, mvm.OpStop)
		h.host.host.Behave(i.ID, fake.Behavior{Log: []string{"connecting to the database"}, Services: []guestproto.ServiceStatus{{Name: "app", State: "starting"}}})
		err := h.try(i.ID, mvm.OpStart)
		if !mvm.IsKind(err, mvm.KindTimeout) || !strings.Contains(err.Error(), "\n| connecting to the database") || !strings.Contains(err.Error(), "mvm logs "+i.ID) {
			h.t.Errorf("start = %v, want a timeout with the service's last lines", err)
		}
		if got := h.get(i.ID); got.Ready || !strings.Contains(got.Problem, "not ready within") || strings.Contains(got.Problem, "database") {
			h.t.Errorf("ready %v, problem %q", got.Ready, got.Problem)
		}
	})
}
