package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/driver/fake"
)

// TestWhyOfAPanic: of a guest whose kernel panicked why shows what the console has around
// that, and of one that powered itself off its last lines; the note says which it was.
func TestWhyOfAPanic(t *testing.T) {
	for name, c := range map[string]struct {
		end     fake.Behavior
		console []string
		problem string
		want    string
	}{
		"panic": {fake.Behavior{Only: []string{"Exec"}, Panic: "Kernel panic - not syncing: no init"},
			[]string{"mounting the root", "[1.0] Kernel panic - not syncing: no init", "CPU: 0", "RIP: 0033", "---[ end Kernel panic - not syncing: no init ]---"},
			"its guest's kernel panicked: Kernel panic - not syncing: no init", "mounting the root"},
		"power-off": {fake.Behavior{Only: []string{"Exec"}, Poweroff: true}, []string{"reboot: Power down"}, "its guest powered itself off", "reboot: Power down"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			i := h.instance()
			lines := slices.Clone(c.console)
			for n := range 40 {
				if name == "panic" {
					lines = append(lines, fmt.Sprintf("RAX: %d", n))
				} else {
					lines = append([]string{fmt.Sprintf("boot %d", n)}, lines...)
				}
			}
			must(t, os.WriteFile(filepath.Join(h.dir, "instances", i.ID, "console.log"), []byte(strings.Join(lines, "\r\n")+"\r\n"), 0o600))
			h.host.Behave(i.ID, c.end)
			_, _ = h.a.Exec(ctx(t), i.Address(), mvm.ExecSpec{Argv: []string{"true"}}, mvm.ExecIO{})
			eventually(t, "it is stopped", func() bool { return h.get(i.ID).State == mvm.StateStopped })
			s := h.why(i.ID)
			if s.Instance.Problem != c.problem {
				t.Errorf("problem %q, want %q", s.Instance.Problem, c.problem)
			}
			if got := strings.Join(s.LastLines, "\n"); s.LastOf != "console" || !strings.Contains(got, c.want) || len(s.LastLines) > 10 {
				t.Errorf("last lines of %q:\n%s\nwant some with %q", s.LastOf, got, c.want)
			}
		})
	}
}
