package vm_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/testenv"
)

// talker is a worker that says what is written to /tmp/say in its guest.
var talker = "[tenant]\nid = \"acme\"\n" + strings.Replace(workerPool("talkers", 0), "exec /bin/workload",
	"mkfifo /tmp/say; while :; do cat /tmp/say; done & exec /bin/workload", 1)

// said are the lines that were written to /tmp/say.
func (h *host) said(id string, spec mvm.LogsSpec) (texts []string) {
	h.t.Helper()
	err := h.client.Logs(h.ctx(), mvm.Address{Instance: id}, spec, func(l mvm.LogLine) error {
		if strings.HasPrefix(l.Text, "say ") {
			texts = append(texts, l.Text)
		}
		return nil
	})
	must(h.t, err)
	return texts
}

// say has the workload log lines, and waits until its guest shows them.
func (h *host) say(id string, lines ...string) {
	h.t.Helper()
	_, err := h.execIn(id, strings.NewReader(strings.Join(lines, "\n")+"\n"), "sh", "-c", "cat >/tmp/say")
	must(h.t, err)
	testenv.Eventually(h.t, patience, func() error {
		if got := h.said(id, mvm.LogsSpec{}); !slices.Contains(got, lines[len(lines)-1]) {
			return fmt.Errorf("the guest's log has %q, want %q at the end", got, lines[len(lines)-1])
		}
		return nil
	})
	_, err = h.exec(id, "true") // by now who follows has them too
	must(h.t, err)
}

// TestLogsOutliveTheGuest: what a guest said is there after its VMM was killed, while it
// sleeps, past a restart of the agent, and of the boot before, each line once.
func TestLogsOutliveTheGuest(t *testing.T) {
	t.Parallel()
	h := newHost(t, "qemu")
	h.deploy(talker)
	i, err := h.client.CreateInstance(h.ctx(), "acme", "talkers", "")
	must(t, err)
	h.seen[i.ID] = true
	h.do(i.ID, mvm.OpStart)
	last := []string{"say what happened"}
	for n := range 300 {
		last = append(last, fmt.Sprintf("say frame %d of the trace", n))
	}
	h.say(i.ID, last...)
	st, err := h.client.Stats(h.ctx(), mvm.Address{Instance: i.ID})
	must(t, err)
	must(t, syscall.Kill(st.PID, syscall.SIGKILL))
	testenv.Eventually(t, patience, func() error {
		if now := h.get(i.ID); now.State != mvm.StateStopped {
			return fmt.Errorf("it is %s", now.State)
		}
		return nil
	})
	if got := h.said(i.ID, mvm.LogsSpec{}); !slices.Equal(got, last) {
		t.Errorf("after the VMM was killed %d lines are kept, want %d: %.300q", len(got), len(last), got)
	}

	h.do(i.ID, mvm.OpStart)
	if got := h.said(i.ID, mvm.LogsSpec{Previous: true, Service: "app", Tail: 2}); !slices.Equal(got, last[len(last)-2:]) {
		t.Errorf("of the boot before there is %q", got)
	}
	var all []string
	for n := range 3 {
		all = append(all, fmt.Sprintf("say boot two, %d", n))
		h.say(i.ID, all[n])
		h.do(i.ID, mvm.OpSleep)
		h.stop()
		h.start()
		if got := h.said(i.ID, mvm.LogsSpec{}); !slices.Equal(got, all) {
			t.Errorf("of a sleeper %q is kept, want %q", got, all)
		}
		if now := h.get(i.ID); now.State != mvm.StateSleeping {
			t.Errorf("after its log was read it is %s", now.State)
		}
		h.do(i.ID, mvm.OpWake)
		if n == 1 {
			h.stop() // while it runs
			h.start()
		}
	}
	if got := h.said(i.ID, mvm.LogsSpec{}); !slices.Equal(got, all) {
		t.Errorf("the guest itself has %q, want %q", got, all)
	}
	h.do(i.ID, mvm.OpStop)
	if got := h.said(i.ID, mvm.LogsSpec{}); !slices.Equal(got, all) {
		t.Errorf("after a stop %q is kept, want %q", got, all)
	}
}
