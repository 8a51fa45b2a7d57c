package agent_test

import (
	"strings"
	"testing"

	"mvm/internal/agent"
	"mvm/internal/driver"
)

// TestDoctorOnAccelerator: that guests run in software is worth a warning, with why.
func TestDoctorOnAccelerator(t *testing.T) {
	for accelerator, want := range map[string]string{"kvm": "ok", "none": "ok", "tcg": "warning"} {
		f := agent.DriverFinding(driver.Info{Name: "qemu", Version: "7", Accelerator: accelerator, Why: "a probe boot failed"})
		if f.Severity != want || !strings.Contains(f.Where, "a probe boot failed") || (f.Fix != "") != (want == "warning") {
			t.Errorf("%s: %+v, want severity %s, why, and a fix for a warning", accelerator, f, want)
		}
	}
}
