package vm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/testenv"
)

// What the demo says of its reminder, and of the message that wakes its assistant.
var (
	demoReminded = regexp.MustCompile(`the bot: stub model heard: it is time to drink water\n +sent (-?[0-9mµs.]+) after it was due\n`)
	demoAnswered = regexp.MustCompile(`you, to the bot: are you awake\?\n.*\n.*answered after ([0-9mµs.]+)\n`)
)

// testDemoReminder: a message and a reminder that the demo's user has set by chat wake the
// assistant, and the reminder does not come early. By how much it is late depends on the turn of
// OpenClaw that it takes, and so on the load.
func testDemoReminder(t *testing.T, said string) {
	reminded, answered := demoReminded.FindStringSubmatch(said), demoAnswered.FindStringSubmatch(said)
	if reminded == nil || answered == nil {
		t.Error("the demo does not show that a message and a reminder wake the assistant")
		return
	}
	late, err := time.ParseDuration(reminded[1])
	must(t, err)
	if late < 0 {
		t.Errorf("the reminder came %s before it was due", -late)
	}
	t.Logf("the reminder came %s after it was due; a message to the sleeping assistant was answered after %s", late, answered[1])
}

// testWokenAhead: the reminder has woken the assistant from its memory, before it was due.
func (o *openClaw) testWokenAhead() {
	o.t.Helper()
	story, err := o.client.Why(o.ctx(), mvm.Address{Instance: o.id})
	must(o.t, err)
	for _, tr := range story.Transitions {
		if tr.Op != mvm.OpWake || tr.By.Kind != mvm.AskerTimer {
			continue
		}
		_, at, _ := strings.Cut(tr.Why, "its next wake is at ")
		due, err := time.Parse(time.RFC3339, at)
		must(o.t, err)
		o.t.Logf("the wake began %s before the reminder was due and took %s", due.Sub(tr.Started).Round(time.Millisecond), tr.Took)
		if !tr.Started.Before(due) || tr.Kind != "warm" {
			o.t.Errorf("a %s wake began at %s for a reminder that was due at %s", tr.Kind, tr.Started, due)
		}
		return
	}
	o.t.Errorf("no reminder has woken it: %+v", story.Transitions)
}

// demoPatience bounds a demo: OpenClaw takes minutes to start without KVM, and more
// on a busy machine.
const demoPatience = 25 * time.Minute

// prepareDemo builds what TestDemo runs: its program and OpenClaw's image.
func prepareDemo(t *testing.T) {
	t.Helper()
	share(t, filepath.Join(place(), "images"), testenv.Image(t, "builtin:openclaw"))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(place(), "demo"), "../demo").CombinedOutput()
	if err != nil {
		t.Fatalf("build the demo: %v\n%s", err, out)
	}
}

// TestDemo runs `make demo`'s program twice: a chat with the real OpenClaw through
// the gateway, its worker asleep without a process, and the same OpenClaw process
// answering the next message. The second run finds all of it there, and so do tests of
// what mvm and OpenClaw say to each other: its start is what takes the time.
func TestDemo(t *testing.T) {
	h := newHost(t, "qemu")
	first := h.demo()
	for _, want := range []string{"openclaw: stub model heard", "is gone", "warm: from its snapshot", "remove it:"} {
		if !strings.Contains(first, want) {
			t.Errorf("the demo does not say %q", want)
		}
	}
	testDemoReminder(t, first)
	if got := strings.Count(first, "openclaw: stub model heard"); got != 2 {
		t.Errorf("%d chats were answered, want 2", got)
	}
	began := time.Now()
	second := h.demo("-bot=false")
	t.Logf("the second run took %s", time.Since(began).Round(time.Second))
	if strings.Contains(second, "create-instance") {
		t.Error("the second run made instances again")
	}
	o := h.openClaw()
	o.testWokenAhead()
	t.Run("busy means awake", func(t *testing.T) { o.on(t).testBusy() })
	t.Run("so does a command", func(t *testing.T) { o.on(t).testCommand() })
	h.overrideIsOver(o.id)
	t.Run("left alone", func(t *testing.T) { o.on(t).testLeftAlone() })
	t.Run("rotated while it sleeps", func(t *testing.T) { o.on(t).testRotation() })
	t.Run("a bot", func(t *testing.T) { o.on(t).testBot() })
}

// demo runs the demo against this host's agent and returns what it wrote.
func (h *host) demo(flags ...string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), demoPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(place(), "demo"), "-mvm", filepath.Join(place(), "mvm"), "-dir", h.path("demo"))
	cmd.Args = append(cmd.Args, flags...)
	cmd.Env = append(os.Environ(), "MVM_SOCKET="+h.options().Socket, "MVM_NO_AUTOSTART=1", "ANTHROPIC_API_KEY=")
	out, err := cmd.CombinedOutput()
	h.t.Logf("%s", out)
	if err != nil {
		h.t.Fatalf("demo: %v", err)
	}
	return string(out)
}
