//go:build !race

package sim_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// variant is the program broken on purpose in one place.
type variant struct {
	name     string
	file     string // relative to the module
	old, new string // exactly one place has the old text
	// rare: few seeds tell it from the program.
	rare bool
}

// variants are what the checks must notice, each of another kind.
func variants() []variant {
	return []variant{
		{"an intent is not durable before its operation acts", "internal/lifecycle/operation.go",
			"i.Op = &mvm.Op{Kind: op,", "_ = &mvm.Op{Kind: op,", false},
		{"a record goes on without its transaction", "internal/lifecycle/operation.go",
			"	if err == nil {\n		o.inst = now\n	}", "	o.inst, err = now, nil", false},
		{"a snapshot is not marked as consumed", "internal/lifecycle/wake.go",
			"s.Consumed = true", "s.Consumed = false", false},
		{"a fault of the host counts as a bad snapshot", "internal/lifecycle/wake.go",
			"if driver.BadSnapshot(why) || o.inst.Snapshot.Consumed {", "if true {", true},
		{"the quota of running instances is not looked at", "internal/fleet/quota.go",
			"quota.Run(t.Quota, u, i.Res)", "quota.Run(func(q mvm.Quota) mvm.Quota { q.MaxRunning = 1 << 30; return q }(t.Quota), u, i.Res)", false},
		{"the last of the operations that wait is lost", "internal/lifecycle/runner.go",
			"if more = len(r.jobs) > 0; !more {", "if more = len(r.jobs) > 1; !more {", false},
		{"a failed restore leaves its VMM behind", "internal/lifecycle/wake.go",
			`{name: "restore", do: o.restoreVMM, undo: o.releaseVMM},`, `{name: "restore", do: o.restoreVMM},`, false},
		{"recovery forgets stops and destructions", "internal/recovery/recover.go",
			"case repair.Finish:\n		return r.opt.Queue.Redo(i, f.Cut)", "case repair.Finish:\n		if repair.OnlyForward(f.Cut) {\n			return nil\n		}\n		return r.opt.Queue.Redo(i, f.Cut)", false},
		{"what nobody owns is not swept", "internal/recovery/recover.go",
			"if err := r.sweep(ctx, instances); err != nil {", "if err := error(nil); err != nil {", false},
		{"a wake lets traffic in before the guest is right", "internal/lifecycle/wake.go",
			`{name: "gate", do: o.wakeGate, forward: true},`, `{name: "gate", do: func(context.Context) error { return nil }, forward: true},`, false},
		{"a guest that missed new secrets is not told again", "internal/deliver/deliver.go",
			"d.owed.Set(i.ID, true) // it is told again", "d.owed.Set(i.ID, false)", false},
		{"the policy does not mind open connections", "internal/policy/meter.go",
			"if s.Connections == 0 {", "if true {", false},
		{"the policy does not mind the minimum time", "internal/policy/policy.go",
			"if name, until := minimum(s); until.After(e.now) {", "if name, until := minimum(s); false {", false},
		{"reconcile does not mind what a person did", "internal/plan/model.go",
			"i.ManualOverrideUntil.After(o.Now) ||", "", false},
		{"a user's instance that crashed stays down", "internal/plan/fill.go",
			"if i.pool != spec.ID || !i.crashed {", "if true {", false},
		{"a state that is to be kept is not", "internal/declare/state.go",
			"if err := tx.PutMeta(metaKept, string(raw)); err != nil {", "if _ = raw; false {", false},
		{"a host is held to its state once only", "internal/reconcile/reconcile.go",
			"d.Hold(r.life)", "", false},
		{"timers are forgotten when the agent ends", "internal/recovery/recover.go",
			"r.opt.Schedule.Changed(i)", "_ = i", false},
		{"memory that was kept of an earlier sleep is used", "internal/driver/atrest/open.go",
			"	return r.Over(f), nil\n}", staleMemory, false},
		{"pruning does not mind what is protected", "internal/plan/prune.go",
			"if p.Spec.Pinned || p.Spec.Critical {", "if false {", false},
	}
}

// staleMemory gives each image of an instance the content of the first one.
const staleMemory = `	now := kept{make([]byte, 1<<20), r.Device}
	if _, err := f.ReadAt(now.memory, 0); err != nil {
		return nil, err
	}
	if was, ok := first[dir]; ok {
		r.Device = was.device
		if _, err := f.WriteAt(was.memory, 0); err != nil {
			return nil, err
		}
	} else {
		first[dir] = now
	}
	return r.Over(f), nil
}

type kept struct{ memory, device []byte }

var first = map[string]kept{}`

// Bounds of the search for a seed that tells a variant from the program.
const (
	variantSeeds = 60
	rareSeeds    = 1000
	variantBatch = 5
)

// TestBrokenVariantsAreCaught: each of the variants breaks an invariant of some seed,
// so that the checks are known to bite.
func TestBrokenVariantsAreCaught(t *testing.T) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			if v.rare && !*rareFlag {
				t.Skip("one seed in a hundred tells it from the program: make sim-rare looks for it; TestHostFaultsKeepSnapshots of the agent notices it each time")
			}
			t.Parallel()
			if seed, why := catch(t, v); why == "" {
				t.Errorf("%s: %d seeds of %d steps do not notice", v.file, v.seeds(), *stepsFlag)
			} else {
				t.Logf("seed %d: %s", seed, why)
			}
		})
	}
}

var failedAt = regexp.MustCompile(`seed (\d+), (step \d+: .*)`)

// seeds is how many are looked at.
func (v variant) seeds() int {
	if v.rare {
		return rareSeeds
	}
	return variantSeeds
}

// catch builds the variant and simulates seeds until one fails.
func catch(t *testing.T, v variant) (seed int, why string) {
	bin, err := v.build(t)
	if err != nil {
		t.Errorf("%s: %v", v.name, err)
		return 0, ""
	}
	defer os.Remove(bin)
	for first := 1; first <= v.seeds(); first += variantBatch {
		for s := first; s < first+variantBatch; s++ {
			out, err := childOf(t, bin, uint64(s), 1, *stepsFlag)
			if err == nil {
				continue
			}
			if m := failedAt.FindStringSubmatch(out); m != nil {
				return s, clip(m[2])
			}
			if strings.Contains(out, "stands still") || strings.Contains(out, "deadlock") || strings.Contains(out, "panic:") {
				return s, "the simulation ends: " + clip(firstLine(out, "stands still", "deadlock", "panic:"))
			}
			t.Errorf("%s: seed %d: %v\n%s", v.name, s, err, failureIn(out))
			return s, ""
		}
	}
	return 0, ""
}

func firstLine(out string, marks ...string) string {
	for line := range strings.Lines(out) {
		for _, m := range marks {
			if strings.Contains(line, m) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

func clip(s string) string { return s[:min(len(s), 110)] }

// build makes the test binary of the variant.
func (v variant) build(t *testing.T) (bin string, err error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, v.file)
	src, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(src), v.old); n != 1 {
		t.Errorf("%s: %s has the text to replace %d times, want once:\n%s", v.name, v.file, n, v.old)
		return "", os.ErrNotExist
	}
	dir := t.TempDir()
	broken := filepath.Join(dir, filepath.Base(v.file))
	if err := os.WriteFile(broken, []byte(strings.Replace(string(src), v.old, v.new, 1)), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	bin = filepath.Join(dir, "sim.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-overlay", list, "-o", bin, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		return "", err
	}
	return bin, nil
}
