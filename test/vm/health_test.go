package vm_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
)

// TestFailingWorkload: a workload that crashes again and again ends the deployment with the
// service, its exit code and what it said last, is seen in the list, and a request to it is
// answered. When it is mended all is well, and what its guest's end was is told: a panic of
// the kernel from a power-off.
func TestFailingWorkload(t *testing.T) {
	h := newHost(t, "qemu")
	well := workerPool("workers", 1) + "min_running_seconds = 0\n"
	crash := strings.Replace(well, "exec /bin/workload", "echo connecting; echo fatal: no database; exit 3", 1)
	began := time.Now()
	err := h.tryDeploy(gatewayPool + workerPool("people", 0) + crash)
	took := time.Since(began)
	t.Logf("the deployment failed after %s: %v", took.Round(time.Second), err)
	if !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Fatalf("the deployment ended with: %v, want unavailable", err)
	}
	for _, want := range []string{"service app is failing (exited with code 3)", "\n| connecting\n| fatal: no database"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error has no %q: %v", want, err)
		}
	}
	i := h.only("workers")
	if i.Health == nil || i.Health.Status != mvm.HealthFailing || i.Health.Worst().ExitCode == nil || *i.Health.Worst().ExitCode != 3 {
		t.Errorf("health %+v, want failing with code 3", i.Health)
	}
	testenv.Eventually(t, patience, func() error { // its guest goes on trying, and tells of each time
		if now := h.get(i.ID); now.Health.Worst() == nil || now.Health.Worst().Restarts <= i.Health.Worst().Restarts {
			return fmt.Errorf("health %+v, want more restarts than %d", now.Health, i.Health.Worst().Restarts)
		}
		return nil
	})
	if s, err := h.client.Why(h.ctx(), i.Address()); err != nil || s.LastOf != "app" || !slices.Contains(s.LastLines, "fatal: no database") { // it may have begun anew
		t.Errorf("why has %q of %q, %v; want the last lines of app", s.LastLines, s.LastOf, err)
	}
	h.wantRefused()
	h.deploy(gatewayPool + workerPool("people", 0) + well)
	i = h.only("workers")
	testenv.Eventually(t, patience, func() error {
		if now := h.get(i.ID); now.Health == nil || now.Health.Status != mvm.HealthReady {
			return fmt.Errorf("health %+v, want ready", now.Health)
		}
		return nil
	})
	h.do(i.ID, mvm.OpStart) // by hand: it is left alone when it ends
	h.wantEnd(i.ID, "its guest's kernel panicked: Kernel panic - not syncing", "Kernel panic", "sh", "-c", "echo c >/proc/sysrq-trigger")
	h.do(i.ID, mvm.OpStart)
	h.wantEnd(i.ID, "its guest powered itself off", "", "sh", "-c", "echo o >/proc/sysrq-trigger")
}

// tryDeploy deploys, and returns how that ended.
func (h *host) tryDeploy(text string) error {
	h.t.Helper()
	d, err := manifest.ParseDeployment("test.toml", []byte(text), func(string) ([]byte, error) { return nil, os.ErrNotExist })
	must(h.t, err)
	_, err = h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil)
	return err
}

// wantRefused sends a request to the worker whose service fails.
func (h *host) wantRefused() {
	h.t.Helper()
	began := time.Now()
	status, body, err := fetch(h.ctx(), h.web(), "/")
	took := time.Since(began)
	if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "its service does not come up") {
		h.t.Errorf("a request is answered with %d %q, %v; want 503 and why", status, body, err)
	}
	h.t.Logf("a request to a failing worker was answered after %s", took)
}

// wantEnd runs a command that ends the guest, and looks what is told of it.
func (h *host) wantEnd(id, problem, console string, argv ...string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.ctx(), patience)
	defer cancel()
	_, _ = h.client.Exec(ctx, mvm.Address{Instance: id}, mvm.ExecSpec{Argv: argv}, mvm.ExecIO{}) // its stream is cut
	var s mvm.Story
	testenv.Eventually(h.t, patience, func() (err error) {
		s, err = h.client.Why(h.ctx(), mvm.Address{Instance: id})
		for _, tr := range s.Transitions {
			if err == nil && tr.Op == mvm.OpStop && strings.HasPrefix(tr.Why, problem) {
				return nil
			}
		}
		return fmt.Errorf("its transitions are %+v, %w; want a stop because %q", s.Transitions, err, problem)
	})
	if s.Instance.State == mvm.StateStopped && !strings.HasPrefix(s.Instance.Problem, problem) {
		h.t.Errorf("it is stopped with problem %q, want %q", s.Instance.Problem, problem)
	}
	if s.Instance.State == mvm.StateStopped && !strings.Contains(strings.Join(s.LastLines, "\n"), console) {
		h.t.Errorf("why has the last lines %q of %q, want the console's with %q", s.LastLines, s.LastOf, console)
	}
}
