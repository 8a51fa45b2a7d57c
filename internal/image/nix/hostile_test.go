package nix_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/nix"
	"mvm/internal/sys"
)

// TestHostileFlakes: a flake that does harm fails in the time that it was given, with a reason,
// and leaves no process, mount, cgroup or file. The images that are there stay.
func TestHostileFlakes(t *testing.T) {
	dir := flake(t, "hostile")
	o := options(t)
	o.Disk, o.Memory, o.LogBytes = 64<<20, 384<<20, 1<<20
	short := o // for what ends by nothing else
	short.Within = 10 * time.Second
	silent := o
	silent.SilentTimeout = 2 * time.Second
	for _, c := range []struct {
		profile string
		o       nix.Options
		why     string // of the error; of several bounds, separated by |, the first that is met ends it
	}{
		{"hang-evaluation", short, "the cage ended|nix was ended by signal 9"},
		{"memory-evaluation", o, "nix was ended by signal 9|the cage ended"},
		{"noise-evaluation", o, "wrote more than 64 MiB of log"},
		{"read-evaluation", o, "access to absolute path '/etc/shadow' is forbidden in pure eval mode"},
		{"read-environment", o, "evaluation sees nothing"},
		{"hang-build", silent, "timed out after 2 seconds of silence"},
		{"silent-build", silent, "timed out after 2 seconds of silence"},
		{"noise-build", o, "after writing more than 1048576 bytes of log output"},
		{"memory-build", o, "signal 9"},
		{"disk-build", o, "No space left on device"},
		{"sparse-build", o, "File too large"},
		{"many-build", o, "No space left on device"},
		{"forks-build", short, "the cage ended|can't fork"},
		{"orphans-build", o, "failed with exit code 1"},
		{"read-build", o, "build sees nothing"},
		{"network-build", o, "build has no network"},
		{"network-fetch", o, "fetch has no network"},
		{"private-fetch", o, "169.254.169.254 is not a public address"},
		{"pipe-output", o, "unsupported type"},
		{"link-output", o, "image.json of the output"},
		{"file-output", o, "not a directory"},
	} {
		t.Run(c.profile, func(t *testing.T) {
			s := store(t, c.o)
			before := mounts(t)
			_, err := s.Build(t.Context(), image.Request{Ref: nix.Path + dir, Role: mvm.RoleWorker, Profile: c.profile}, nil)
			if err == nil || !slices.ContainsFunc(strings.Split(c.why, "|"), func(why string) bool { return strings.Contains(err.Error(), why) }) {
				t.Errorf("%v, want %q", err, c.why)
			}
			nothingLeft(t)
			if after := mounts(t); after != before {
				t.Errorf("mounts before\n%s\nafter\n%s", before, after)
			}
			if all, err := s.List(); err != nil || len(all) > 0 {
				t.Errorf("images %v, %v", all, err)
			}
		})
	}
}

// TestCancelled: a build that nobody wants any more ends with its reason, and leaves nothing.
func TestCancelled(t *testing.T) {
	dir := flake(t, "hostile")
	stop := errors.New("stop")
	for profile, when := range map[string]string{"hang-evaluation": "evaluating", "hang-build": "building '"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := store(t, options(t)).Build(ctx, image.Request{Ref: nix.Path + dir, Profile: profile}, func(p mvm.Progress) {
			if strings.Contains(p.Text, when) {
				cancel(stop)
			}
		})
		cancel(nil)
		if !errors.Is(err, stop) {
			t.Errorf("%s: %v, want %v", profile, err, stop)
		}
		nothingLeft(t)
	}
}

// TestTry: a cage that is built to see whether it can be leaves nothing.
func TestTry(t *testing.T) {
	if err := nix.Try(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t)
}

// nothingLeft reports processes and cgroups of cages of this process.
func nothingLeft(t *testing.T) {
	t.Helper()
	names, err := sys.CgroupsHere()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasPrefix(n, fmt.Sprintf("mvm-nix-%d-", os.Getpid())) {
			t.Errorf("cgroup %s is left", n)
		}
	}
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range groups {
		b, err := os.ReadFile(p)
		if err != nil { // it has ended
			continue
		}
		if strings.Contains(string(b), fmt.Sprintf("/mvm-nix-%d-", os.Getpid())) {
			t.Errorf("a process of a cage is left: %s %s", p, b)
		}
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for l := range strings.Lines(string(b)) {
		if strings.Contains(l, "flake") || strings.Contains(l, "nr_inodes=8192") {
			all = append(all, l)
		}
	}
	return strings.Join(all, "")
}
