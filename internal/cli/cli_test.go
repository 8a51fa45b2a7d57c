package cli_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli"
	base "mvm/internal/cli/command"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostile is an agent whose guests write to the reader's terminal. What it is not
// asked for in these tests it does not have.
type hostile struct{ api.Service }

const evil = "\x1b]0;owned\x07\x1b[2J\u009b31m"

var now = time.Date(2026, 2, 11, 10, 0, 0, 0, time.UTC)

func (hostile) instance() mvm.Instance {
	return mvm.Instance{ID: "i-a3f7b2c1", Tenant: "acme", Pool: "w", State: mvm.StateRunning, Changed: now.Add(-3 * time.Minute), SecretsGeneration: 1,
		Problem: "guest says " + evil, Last: &mvm.Transition{Op: mvm.OpWake, By: mvm.ParseAsker("gateway:i-00000001"), Reason: "no snapshot fits", Kind: "cold",
			From: mvm.StateSleeping, To: mvm.StateRunning, Took: 1500 * time.Millisecond, ClockError: 3 * time.Millisecond,
			Stages: []mvm.Stage{{Name: "restore", Took: 45 * time.Millisecond}, {Name: "gate", Took: time.Second}, {Name: "network"}}}}
}
func (h hostile) Instances(context.Context, mvm.Address) ([]mvm.Instance, error) {
	return []mvm.Instance{h.instance()}, nil
}
func (h hostile) Instance(context.Context, mvm.Address) (mvm.Instance, error) {
	return h.instance(), nil
}
func (h hostile) Why(context.Context, mvm.Address) (mvm.Story, error) {
	i := h.instance()
	first := mvm.Transition{Op: mvm.OpSleep, By: mvm.Asker{Kind: mvm.AskerPolicy}, Why: "idle for long", From: mvm.StateRunning, To: mvm.StateSleeping, Started: now.Add(-time.Hour),
		Took: time.Second, SnapshotBytes: 31 << 20, Image: "sha256:one", VMM: "qemu 7.2.0 sha256:vmm", Request: "r-0"}
	failed := mvm.Transition{Op: mvm.OpWake, By: mvm.ParseAsker("gateway:i-00000001"), Why: "a request for w", From: mvm.StateSleeping, To: mvm.StateSleeping, Started: now.Add(-time.Minute),
		Error: "quota" + evil, Repeated: 3, Until: now, Image: "sha256:one", VMM: "qemu 7.2.0 sha256:vmm"}
	last := *i.Last
	last.Why, last.SecretsGeneration, last.Image, last.VMM, last.Request = "a request for w", 1, "sha256:one", "qemu 7.2.0 sha256:vmm", "r-1"
	return mvm.Story{Instance: i, TenantSecrets: 2, Transitions: []mvm.Transition{first, failed, last}, Queued: 3,
		Notes: []mvm.Event{{Time: now, Action: mvm.TransitionDeferred, By: mvm.Asker{Kind: mvm.AskerPolicy}, Why: "sleep", Detail: "min_running_seconds"}}}, nil
}
func (hostile) Tenant(context.Context, string) (mvm.Tenant, mvm.Usage, error) {
	return mvm.Tenant{ID: "acme", SecretsGeneration: 2}, mvm.Usage{}, nil
}
func (hostile) Events(_ context.Context, _ mvm.EventFilter, each func(mvm.Event) error) error {
	return each(mvm.Event{Time: now, Action: mvm.WakeRefused, Detail: evil})
}
func (hostile) Logs(_ context.Context, _ mvm.Address, _ mvm.LogsSpec, each func(mvm.LogLine) error) error {
	return each(mvm.LogLine{Service: "main", Text: "a\tb" + evil})
}
func (hostile) Operate(_ context.Context, _ mvm.Address, _ mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
	progress(mvm.Progress{Text: evil})
	return mvm.Instance{}, mvm.Errorf(mvm.KindState, "guest refuses: %s", evil).WithFix("%s", evil)
}

// run runs a command line against the service.
func run(t *testing.T, svc api.Service, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := api.Listen(socket, -1)
	if err != nil {
		t.Fatal(err)
	}
	srv := api.NewServer(svc, api.ServerConfig{Group: -1, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	env := cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: func() time.Time { return now },
		Getenv: func(name string) string {
			return map[string]string{"MVM_SOCKET": socket, "MVM_NO_AUTOSTART": "1"}[name]
		}}
	code = cli.Run(ctx, env, args)
	if err := srv.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	return out.String(), errs.String(), code
}

func TestNoControlCharactersReachTheTerminal(t *testing.T) {
	for _, args := range [][]string{{"ps"}, {"why", "i-a3f7b2c1"}, {"instance", "info", "i-a3f7b2c1"}, {"events"}, {"instance", "sleep", "i-a3f7b2c1"}} {
		stdout, stderr, _ := run(t, hostile{}, args...)
		if all := stdout + stderr; strings.ContainsAny(all, "\x1b\x07\u009b") || !strings.Contains(all, "31m") {
			t.Errorf("mvm %s prints %q", strings.Join(args, " "), all)
		}
	}
	if stdout, _, _ := run(t, hostile{}, "logs", "i-a3f7b2c1"); !strings.HasPrefix(stdout, "main | a\tb") {
		t.Errorf("tabs of a log are lost: %q", stdout)
	}
}

func TestWhyTellsTheStory(t *testing.T) {
	stdout, _, code := run(t, hostile{}, "why", "i-a3f7b2c1")
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	last := 0
	for _, want := range []string{"acme/w/i-a3f7b2c1 is running since 3m", "secrets generation 1; the tenant has 2", "2 more operations wait", "problem: guest says ",
		"put off, asked by policy (sleep): min_running_seconds",
		"wake, asked by gateway:i-00000001 (a request for w): sleeping -> running", "cold: booted from its disks (no snapshot fits)",
		"took 1.5s: restore 45ms, gate 1s\n", "clock error 3ms, secrets generation 1, request r-1",
		"wake, asked by gateway:i-00000001 (a request for w): sleeping -> sleeping", "failed: quota", "and 3 more times up to",
		"sleep, asked by policy (idle for long): running -> sleeping", "snapshot 31 MiB, request r-0", "image sha256:one", "VMM qemu 7.2.0 sha256:vmm"} {
		at := strings.Index(stdout, want)
		if at < last {
			t.Errorf("got\n%s\nwant it to have, in this order, %q", stdout, want)
		}
		last = max(last, at)
	}
	if strings.Count(stdout, "sha256:one") != 1 {
		t.Errorf("an image that did not change is told again:\n%s", stdout)
	}
	if stdout, _, _ := run(t, hostile{}, "why", "-n", "1", "i-a3f7b2c1"); !strings.Contains(stdout, "and 2 more before that") || strings.Contains(stdout, "failed") {
		t.Errorf("the last one only: got\n%s", stdout)
	}
}

func TestErrorsBecomeExitCodes(t *testing.T) {
	for kind, want := range map[mvm.Kind]int{mvm.KindInternal: 1, mvm.KindInvalid: 2, mvm.KindNotFound: 3, mvm.KindExists: 4, mvm.KindQuota: 4,
		mvm.KindPolicy: 4, mvm.KindState: 4, mvm.KindUnavailable: 1, mvm.KindTimeout: 1, mvm.KindCanceled: 130, mvm.KindLeftAlone: 6} {
		_, stderr, code := run(t, failing{err: mvm.Errorf(kind, "no such luck").WithFix("try harder")}, "tenant", "list")
		if code != want || !regexp.MustCompile(`^mvm: no such luck\n  fix: try harder\n  request: r-[0-9a-f]{12}\n$`).MatchString(stderr) {
			t.Errorf("kind %s: exit code %d, want %d; stderr %q", kind, code, want, stderr)
		}
	}
}

// TestAgentThatIsAwayEndsWithFive: who asks too much, or while the agent shuts down, is told
// that as one who reaches no agent.
func TestAgentThatIsAwayEndsWithFive(t *testing.T) {
	for name, err := range map[string]error{"rate": api.TooMany(time.Second, "too many"), "closing": mvm.Away("agent shuts down")} {
		if _, stderr, code := run(t, failing{err: err}, "tenant", "list"); code != 5 || !strings.HasPrefix(stderr, "mvm: ") {
			t.Errorf("%s: exit code %d, stderr %q; want 5", name, code, stderr)
		}
	}
}

// TestFollowedEndsByItsError: only an interrupt ends what is followed with 130 and no word.
func TestFollowedEndsByItsError(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	gone := mvm.Errorf(mvm.KindNotFound, "gone")
	for _, c := range []struct {
		name   string
		ctx    context.Context
		follow bool
		err    error
		want   int
	}{
		{"it failed", t.Context(), true, gone, 3},
		{"it failed, and then was interrupted", over, true, gone, 3},
		{"interrupted", over, true, mvm.Errorf(mvm.KindCanceled, "stopped"), 130},
		{"interrupted while it waited", over, true, over.Err(), 130},
		{"it ended", t.Context(), true, nil, 0},
		{"it ended as it was interrupted", over, true, nil, 0},
		{"not followed", over, false, gone, 3},
	} {
		err := base.Followed(c.ctx, c.follow, c.err)
		if got := cli.ExitCode(err); got != c.want || c.want == 3 && !errors.Is(err, gone) {
			t.Errorf("%s: %v, exit code %d, want %d", c.name, err, got, c.want)
		}
	}
}

type failing struct {
	api.Service
	err error
}

func (f failing) Tenants(context.Context) ([]mvm.Tenant, error) { return nil, f.err }

// TestFilesOfFlagsAreBounded: a file that does not end is not read to its end.
func TestFilesOfFlagsAreBounded(t *testing.T) {
	for _, flag := range []string{"--routes", "--integrations"} {
		_, stderr, code := run(t, hostile{}, "pool", "create", "acme/g", "--flake", "builtin:gateway", "--role", "gateway", flag, "/dev/zero")
		if code != 2 || !strings.Contains(stderr, "more than") {
			t.Errorf("%s /dev/zero: exit code %d, %s", flag, code, stderr)
		}
	}
}
