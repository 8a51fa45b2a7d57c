package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// verifyKVM runs scripts/verify-kvm with a stand-in for go, which fails where its arguments have
// the text, and returns what it printed, its report, and whether it ended with 0.
func verifyKVM(t *testing.T, failsAt string) (said, report string, ok bool) {
	t.Helper()
	dir := t.TempDir()
	stub := filepath.Join(dir, "go")
	script := "#!/bin/sh\n[ -n \"$MVM_REQUIRE\" ] || exit 9\necho \"ran $*\"\n"
	if failsAt != "" {
		script += "case \"$*\" in *'" + failsAt + "'*) echo 'MVM_REQUIRE wants KVM, and guests get tcg'; exit 1;; esac\n"
	}
	for name, text := range map[string]string{"go": script, "mvm": "#!/bin/sh\necho \"this is mvm $*\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "scripts/verify-kvm", filepath.Join(dir, "report"))
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GO="+stub, "MVM="+filepath.Join(dir, "mvm"))
	out, err := cmd.CombinedOutput()
	b, readErr := os.ReadFile(filepath.Join(dir, "report"))
	if readErr != nil {
		t.Fatalf("the report: %v\n%s", readErr, out)
	}
	return string(out), string(b), err == nil
}

// TestVerifyKVM: the script that kvm.md names runs each step of its table and says how it ended.
func TestVerifyKVM(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the script runs as root")
	}
	page, err := os.ReadFile("kvm.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("all passes", func(t *testing.T) {
		said, report, ok := verifyKVM(t, "")
		if !ok || strings.Contains(said, "FAILED") {
			t.Errorf("it failed:\n%s", said)
		}
		for line := range strings.Lines(said) {
			name := strings.TrimSpace(line[:min(len(line), 24)])
			if strings.HasPrefix(line, "the report is in ") {
				continue
			}
			if row, _, _ := strings.Cut(name, " of a wake"); !strings.Contains(string(page), strings.TrimSuffix(row, " of mvm")) {
				t.Errorf("kvm.md does not tell of step %q", name)
			}
			if !strings.Contains(report, "== "+name+": passed") {
				t.Errorf("the report lacks step %q", name)
			}
		}
		if !strings.Contains(report, "this is mvm doctor") || !strings.Contains(report, "ran test") {
			t.Errorf("the report lacks what was said:\n%s", report)
		}
	})
	t.Run("no KVM", func(t *testing.T) {
		said, report, ok := verifyKVM(t, "TestKVM")
		if ok || !strings.Contains(said, "guests get tcg") || strings.Contains(report, "driver suite") {
			t.Errorf("ended with 0: %v; it goes on:\n%s", ok, said)
		}
	})
	t.Run("a step fails", func(t *testing.T) {
		said, report, ok := verifyKVM(t, "TestLimits")
		if ok || !strings.Contains(report, "== limits: FAILED") || !strings.Contains(report, "== demo: passed") || !strings.Contains(said, "the report is in") {
			t.Errorf("ended with 0: %v:\n%s", ok, said)
		}
	})
}
