package plan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/plan"
)

// TestLeftAloneIsNamed: an instance that a person changed is named, with the end of its
// override and with what it keeps back, and only where it keeps something back.
func TestLeftAloneIsNamed(t *testing.T) {
	const running, warm, sleeping, stopped = mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped
	spec := func(running, warm, sleeping int) mvm.PoolSpec {
		return poolSpec("p", mvm.RoleWorker, running, warm, sleeping)
	}
	for _, c := range []struct {
		name   string
		spec   mvm.PoolSpec
		states []mvm.State
		change func(*world)
		want   []string // instance: action target
	}{
		{"it is as desired", spec(1, 0, 0), []mvm.State{running}, byHand("i-00000001"), nil},
		{"behind: its image", spec(1, 0, 0), []mvm.State{running}, func(w *world) {
			byHand("i-00000001")(w)
			w.instances["i-00000001"].Image = "sha256:old"
		}, []string{"1: restart 1"}},
		{"behind: its environment", spec(2, 0, 0), []mvm.State{running, running}, func(w *world) {
			byHand("i-00000002")(w)
			w.instances["i-00000001"].EnvDigest = mvm.EnvDigest(nil)
			w.instances["i-00000002"].EnvDigest = mvm.EnvDigest(map[string]string{"A": "1"})
		}, []string{"2: restart 2"}},
		{"stopped", spec(1, 0, 0), []mvm.State{stopped}, byHand("i-00000001"), []string{"1: start 1"}},
		{"asleep", spec(1, 0, 0), []mvm.State{sleeping}, byHand("i-00000001"), []string{"1: wake 1"}},
		{"asleep, as one is desired", spec(0, 0, 1), []mvm.State{sleeping}, byHand("i-00000001"), nil},
		{"too many", spec(0, 0, 0), []mvm.State{running}, byHand("i-00000001"), []string{"1: sleep 1"}},
		{"the older of too many", spec(1, 0, 0), []mvm.State{running, running}, byHand("i-00000001"), []string{"1: sleep 2"}},
		{"warm", spec(1, 0, 0), []mvm.State{warm}, byHand("i-00000001"), []string{"1: resume 1"}},
		{"another does its work", spec(1, 0, 0), []mvm.State{running, stopped}, byHand("i-00000002"), nil},
		{"critical", critical(spec(1, 0, 0)), []mvm.State{stopped}, byHand("i-00000001"), nil},
		{"a user's", spec(1, 0, 0), []mvm.State{stopped}, func(w *world) {
			byHand("i-00000001")(w)
			usersEnd(mvm.ParseAsker("cli:root"))(w)
		}, nil},
		{"until now", spec(1, 0, 0), []mvm.State{running}, func(w *world) {
			w.instances["i-00000001"].ManualOverrideUntil = now
			w.instances["i-00000001"].Image = "sha256:old"
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := deployment(c.spec)
			w := setUp(t, d)
			w.with(t, "p", c.states...)
			c.change(w)
			p, err := plan.Make(d, w.observed(), plan.Options{})
			if err != nil {
				t.Fatal(err)
			}
			short := strings.NewReplacer("acme/p/i-0000000", "", "acme/p", "")
			var got []string
			for _, a := range p.Alone {
				s := a.Step.Display()
				got = append(got, short.Replace(a.Target.String()+": "+s.Action+" "+s.Target))
				if !a.Until.Equal(now.Add(time.Minute)) || !strings.Contains(a.String(), "until 2026-02-11T10:01:00Z") {
					t.Errorf("%s, want it until a minute from now", a)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("left alone (-want +got):\n%s", diff)
			}
			if kept := plan.Keep(w.observed()).Alone; len(kept) != len(c.want) {
				t.Errorf("by the record %v is left alone, want the same", kept)
			}
			forced := w.run(t, d, plan.Options{Force: true})
			if len(forced.Alone) != 0 || len(forced.Steps) < len(p.Steps)+len(c.want) {
				t.Errorf("taken over, %v is planned and %v is left alone", lines(forced), forced.Alone)
			}
		})
	}
}

// TestPruningLeavesAlone: a pool that is not named stays for an instance that a person
// changed, and that is named.
func TestPruningLeavesAlone(t *testing.T) {
	d := deployment(poolSpec("p", mvm.RoleWorker, 1, 0, 0))
	w := setUp(t, d)
	w.with(t, "p", mvm.StateRunning)
	byHand("i-00000001")(w)
	p, err := plan.Make(deployment(), w.observed(), plan.Options{Prune: true})
	if err != nil || len(p.Steps) != 0 || len(p.Alone) != 1 || p.Alone[0].Step.Kind != plan.DestroyPool {
		t.Fatalf("got %v, left alone %v, %v; want the pool kept, and the instance named", lines(p), p.Alone, err)
	}
	if p, err = plan.Make(deployment(), w.observed(), plan.Options{Prune: true, Force: true}); err != nil || len(p.Steps) != 1 || len(p.Alone) != 0 {
		t.Errorf("taken over: got %v, left alone %v, %v; want the pool destroyed", lines(p), p.Alone, err)
	}
}
