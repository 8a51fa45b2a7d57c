package agent_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"mvm"
)

// recorded are the events of an action, newest last.
func (h *host) recorded(act mvm.Action) (out []mvm.Event) {
	h.t.Helper()
	for _, e := range h.events() {
		if e.Action == act {
			out = append(out, e)
		}
	}
	return out
}

// wantRecorded checks the last event of the action: who asked, and what it says.
func (h *host) wantRecorded(act mvm.Action, by mvm.Asker, says ...string) {
	h.t.Helper()
	all := h.recorded(act)
	if len(all) == 0 {
		h.t.Errorf("no %s is on record", act)
		return
	}
	e := all[len(all)-1]
	if e.By != by {
		h.t.Errorf("%s by %s, want %s", act, e.By, by)
	}
	for _, want := range says {
		if text := e.Why + " " + e.Detail; !strings.Contains(text, want) {
			h.t.Errorf("%s says %q, want %q in it", act, text, want)
		}
	}
}

// Every change has an entry with who made it and what changed, and no entry has a value
// of a secret or of the environment.
func TestChangesAreOnRecord(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		ann := mvm.ParseAsker("cli:ann")
		as := func() context.Context { return mvm.WithAsker(ctx(t), ann) } // each call has a deadline of its own
		d := base()
		d.Pools[0].Env = map[string]string{"TOKEN": "hush-env-1"}
		d.Secrets = map[string][]byte{"key": []byte("hush-secret")}
		digest := "sha256:" + strings.Repeat("ab", 32)
		if _, err := h.a.Apply(as(), d, mvm.ApplyOptions{Manifest: digest}, nil); err != nil {
			t.Fatal(err)
		}
		h.wantRecorded(mvm.DeploymentApplied, ann, digest, "create", "add key")
		settled(time.Minute)

		before := len(h.events())
		if _, err := h.a.Apply(as(), d, mvm.ApplyOptions{Manifest: digest}, nil); err != nil {
			t.Fatal(err)
		}
		if now := len(h.events()); now != before {
			t.Errorf("a deployment that changes nothing made %d entries", now-before)
		}
		if _, err := h.a.Apply(as(), d, mvm.ApplyOptions{Manifest: "sha256:\x1b[2J"}, nil); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("a manifest that is no digest: %v", err)
		}

		quota, pinned := mvm.DefaultQuota(), true
		quota.MaxRunning = 9
		if _, err := h.a.UpdateTenant(as(), d.Tenant.ID, mvm.TenantUpdate{Quota: &quota, Pinned: &pinned}); err != nil {
			t.Fatal(err)
		}
		h.wantRecorded(mvm.TenantUpdated, ann, "quota.max_running", "-> 9", "pinned none -> true")

		pool, err := h.a.Pool(ctx(t), d.Tenant.ID, d.Pools[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		spec := pool.Spec
		spec.Env = map[string]string{"TOKEN": "hush-env-2", "MORE": "hush-env-3"}
		spec.Policy.SleepAfterSeconds++
		if _, err := h.a.UpdatePool(as(), d.Tenant.ID, spec.ID, mvm.PoolUpdate{Spec: &spec}); err != nil {
			t.Fatal(err)
		}
		h.wantRecorded(mvm.PoolUpdated, ann, "env (MORE added, TOKEN changed)", "policy.sleep_after_seconds")

		i := h.all(spec.ID)[0]
		var out bytes.Buffer
		if _, err := h.a.Exec(as(), i.Address(), mvm.ExecSpec{Argv: []string{"echo", "a word"}}, mvm.ExecIO{Stdout: &out, Stderr: &out}); err != nil {
			t.Fatal(err)
		}
		h.wantRecorded(mvm.ExecStarted, ann, `["echo" "a word"]`)
		padded := mvm.ExecSpec{Argv: []string{"echo", strings.Repeat("x", 5000), "the end"}}
		if _, err := h.a.Exec(as(), i.Address(), padded, mvm.ExecIO{Stdout: &out, Stderr: &out}); err != nil {
			t.Fatal(err)
		}
		h.wantRecorded(mvm.ExecStarted, ann, `["echo" "xxx`, `x" "the end"]`, "sha256:")
		if _, err := h.a.Copy(as(), i.Address(), mvm.CopySpec{Path: "/data/nosuch"}, mvm.ExecIO{Stdout: &out, Stderr: &out}); err != nil {
			t.Fatal(err)
		}
		h.wantRecorded(mvm.FilesCopied, ann, `out of "/data/nosuch"`)
		line := func(mvm.LogLine) error { return nil }
		if err := h.a.Logs(as(), i.Address(), mvm.LogsSpec{}, line); err != nil {
			t.Fatal(err)
		}
		if n := len(h.recorded(mvm.LogsRead)); n != 0 {
			t.Errorf("an operator's look at logs made %d entries", n)
		}
		if err := h.a.Logs(as(), i.Address(), mvm.LogsSpec{Record: true}, line); err != nil {
			t.Fatal(err)
		}
		h.wantRecorded(mvm.LogsRead, ann)
		for _, e := range h.events() {
			if text := e.Why + e.Detail; strings.Contains(text, "hush") {
				t.Errorf("%s has a value: %q", e.Action, text)
			}
		}
	})
}
