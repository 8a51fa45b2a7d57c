package repair_test

import (
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/repair"
)

// row is a line of the table, written down apart from the code. Empty lists match all;
// "none" is no operation. vmm: "gone", "runs", "paused". Of two rows that match, the test
// has none: the table says of every combination exactly once what happens.
type row struct {
	states, ops, vmm, by, snapshot string
	do                             repair.Do
	then                           mvm.OpKind
}

const (
	memory  = "running warm"
	rest    = "created ready sleeping stopped destroyed"
	rises   = "start wake resume"
	forward = "stop restart destroy"
)

func rows() []row {
	return []row{
		{"", forward, "", "", "", repair.Finish, ""},
		{"created", "create", "", "", "", repair.Finish, ""},
		{"sleeping", "sleep", "", "", "", repair.Finish, ""},
		{"", "restore", "", "", "", repair.TakeBack, ""},

		{memory, "none create warm sleep " + rises, "gone", "", "", repair.Stop, mvm.OpStart},
		{memory, "warm", "runs paused", "others", "", repair.Conform, mvm.OpWarm},
		{memory, "warm", "runs paused", "policy", "", repair.Conform, ""},
		{memory, "create sleep " + rises, "runs paused", "", "", repair.Conform, ""},
		{"running", "none", "runs", "", "", repair.Keep, ""},
		{"running", "none", "paused", "", "", repair.Conform, ""},
		{"warm", "none", "paused", "", "", repair.Keep, ""},
		{"warm", "none", "runs", "", "", repair.Conform, ""},

		{"sleeping", rises, "runs", "", "consumed", repair.OpenGate, mvm.OpWake},
		{"sleeping", rises, "paused", "", "consumed", repair.ReleaseWhole, mvm.OpWake},
		{"sleeping", rises, "gone", "", "consumed", repair.Release, mvm.OpWake},
		{"sleeping", rises, "", "", "whole", repair.Release, mvm.OpWake},
		{"created ready stopped destroyed", rises, "", "", "", repair.Release, mvm.OpStart},

		{"sleeping", "none create warm", "", "", "", repair.Release, ""},
		{"created", "none warm sleep", "", "", "", repair.Release, ""},
		{"ready stopped destroyed", "none create warm sleep", "", "", "", repair.Release, ""},
	}
}

func (r row) matches(f repair.Found) bool {
	in := func(list, what string) bool { return list == "" || slices.Contains(strings.Fields(list), what) }
	op, vmm, by, snapshot := string(f.Cut), "gone", "others", "whole"
	if op == "" {
		op = "none"
	}
	switch {
	case f.Alive && f.Paused:
		vmm = "paused"
	case f.Alive:
		vmm = "runs"
	}
	if f.ByPolicy {
		by = "policy"
	}
	if f.Consumed {
		snapshot = "consumed"
	}
	return in(r.states, string(f.State)) && in(r.ops, op) && in(r.vmm, vmm) && in(r.by, by) && in(r.snapshot, snapshot)
}

// all are every combination of what can be found.
func all() (out []repair.Found) {
	bools := []bool{false, true}
	for _, s := range strings.Fields(memory + " " + rest) {
		for _, op := range strings.Fields("none create warm sleep restore " + rises + " " + forward) {
			for n := range 16 {
				f := repair.Found{State: mvm.State(s), Cut: mvm.OpKind(op), Alive: bools[n&1], Paused: bools[n>>1&1], ByPolicy: bools[n>>2&1], Consumed: bools[n>>3]}
				if op == "none" {
					f.Cut = ""
				}
				out = append(out, f)
			}
		}
	}
	return out
}

func TestDecide(t *testing.T) {
	used := make([]int, len(rows()))
	for _, f := range all() {
		var matched []int
		for n, r := range rows() {
			if r.matches(f) {
				matched = append(matched, n)
				used[n]++
			}
		}
		if len(matched) != 1 {
			t.Errorf("%+v: rows %v match, want one", f, matched)
			continue
		}
		if r, got := rows()[matched[0]], repair.Decide(f); got != (repair.Verdict{Do: r.do, Then: r.then}) {
			t.Errorf("%+v: got %+v, want %s then %q", f, got, r.do, r.then)
		}
	}
	for n, count := range used {
		if count == 0 {
			t.Errorf("row %d, %+v, matches nothing", n, rows()[n])
		}
	}
}

// TestDecideKeepsPromises checks what must hold whatever the rows say.
func TestDecideKeepsPromises(t *testing.T) {
	for _, f := range all() {
		v := repair.Decide(f)
		promises := map[string]bool{
			"a VMM that serves somebody is not ended without cause": !(f.State.HoldsMemory() && f.Alive && !repair.OnlyForward(f.Cut)) ||
				v.Do != repair.Release && v.Do != repair.ReleaseWhole && v.Do != repair.Stop,
			"memory that is gone is told of":                          !(f.State.HoldsMemory() && !f.Alive) || v.Do == repair.Stop || v.Do == repair.Finish || v.Do == repair.TakeBack,
			"an intent is not left behind":                            f.Cut == "" || v.Do != repair.Keep,
			"a destruction is not undone":                             f.Cut != mvm.OpDestroy || v.Do == repair.Finish,
			"a snapshot from which vCPUs ran is not whole":            v.Do != repair.ReleaseWhole || f.Paused,
			"traffic is let in only to a guest that runs":             v.Do != repair.OpenGate || f.Alive && !f.Paused,
			"an instance at rest that nobody wanted up is not raised": f.State.HoldsMemory() || f.Cut.Rises() || !v.Then.Rises(),
		}
		for what, held := range promises {
			if !held {
				t.Errorf("%+v: %+v: %s", f, v, what)
			}
		}
	}
}
