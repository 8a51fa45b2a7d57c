package hostd_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/network/fakenet"
	"mvm/internal/network/networktest"
	"mvm/internal/sys"
)

// marked is a host whose VMMs carry the mark.
func (w *world) marked(mark string) *spawn.Local {
	w.t.Helper()
	h, err := spawn.New(spawn.Options{Bounds: w.bounds(), Mark: func() (string, error) { return mark, nil }})
	must(w.t, err)
	return h
}

// Two owners whose run dirs have one path, as they may in two mount namespaces, see and
// end only their own VMMs. One that an older mvm started carries no mark: it is found by
// who knows its name, and swept by nobody.
func TestTwoOwnersOfOneName(t *testing.T) {
	w := newWorld(t)
	for _, mark := range []string{"00000000000000aa", ""} {
		l := w.launch("i-0000000a")
		mine, other := w.marked(mark), w.marked("00000000000000bb")
		p, cgroups, err := mine.Launch(t.Context(), l)
		must(t, err)
		t.Cleanup(func() { _ = p.Kill(context.Background()) })
		pid, start := p.ID()
		hint := vmproc.Hint{PID: pid, Start: start}
		for _, dir := range cgroups {
			if mark != "" && !strings.HasSuffix(dir, "mvm-"+l.ID+"-"+mark) {
				t.Errorf("its cgroup is %s, which may be another's", dir)
			}
		}
		if names, err := other.List(t.Context(), w.bounds().RunRoot); err != nil || len(names) > 0 {
			t.Errorf("mark %q: the other lists %v, %v", mark, names, err)
		}
		found, err := other.Find(t.Context(), l.Name, hint)
		if err == nil {
			found.Close()
		}
		if none := errors.Is(err, sys.ErrNoProcess); none != (mark != "") {
			t.Errorf("mark %q: the other finds it: %v", mark, err)
		}
		if names, err := mine.List(t.Context(), w.bounds().RunRoot); err != nil || len(names) != 1 || names[0] != l.Name {
			t.Errorf("mark %q: its own lists %v, %v", mark, names, err)
		}
		if mark != "" {
			must(t, other.Leave(t.Context(), l.Name, "", cgroups))
		}
		again, err := mine.Find(t.Context(), l.Name, vmproc.Hint{})
		must(t, err)
		must(t, again.Kill(t.Context()))
		_, _, _, err = p.Wait()
		must(t, err)
		must(t, mine.Leave(t.Context(), l.Name, l.Cgroup, cgroups))
		for _, dir := range cgroups {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left", dir)
			}
		}
		again.Close()
		p.Close()
	}
}

// An agent whose data dir, run dir or users are others than the server's is refused with
// kind state, before its networks take the place of the other agent's.
func TestServerOfAnotherAgent(t *testing.T) {
	w := newWorld(t)
	n := fakenet.New()
	defer n.Close()
	_, socket := hostdtest.Serve(t, hostd.Options{Bounds: w.bounds(), Network: n, Mark: func() (string, error) { return "aa", nil }})
	b := w.bounds()
	own := hostd.Scope{Mark: "aa", RunRoot: b.RunRoot, ProbeRoot: b.ProbeRoot, FirstUID: b.FirstUID}
	first := hostd.NewClient(socket).For(own).Network()
	must(t, first.Apply(t.Context(), networktest.Config(networktest.Tenant("acme", 3, 3))))
	for name, change := range map[string]func(*hostd.Scope){
		"data dir": func(s *hostd.Scope) { s.Mark = "bb" },
		"run dir":  func(s *hostd.Scope) { s.RunRoot = "/run/other/i" },
		"uid_base": func(s *hostd.Scope) { s.FirstUID++ },
	} {
		other := own
		change(&other)
		err := hostd.NewClient(socket).For(other).Network().Apply(t.Context(), networktest.Config())
		if !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), name) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	f, err := first.OpenTAP(t.Context(), "acme", networktest.Tenant("acme", 3, 3).Instances[0].ID, uid)
	must(t, err)
	must(t, f.Close())
}
