package doctor_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"mvm/internal/doctor"
)

// A host that is to run Firecracker is told each thing that it lacks, with the fix.
func TestFirecrackerHost(t *testing.T) {
	fit := map[string]string{"bin/firecracker*": "#!/bin/sh\necho Firecracker v1.15.1\necho\n", "dev/kvm": "", "dev/net/tun": ""}
	for name, c := range map[string]struct {
		spoil           func(map[string]string)
		words, severity string
		private         string // a file that users may not open
		hostd           string
	}{
		"fit":             {nil, "Firecracker 1.15.1 can be used", "warning", "", ""},
		"none":            {func(f map[string]string) { delete(f, "bin/firecracker*") }, "firecracker is not installed", "error", "", ""},
		"bad version":     {func(f map[string]string) { f["bin/firecracker*"] = "#!/bin/sh\necho Firecracker v1.16.0\n" }, "connections of the guest to its host hang", "error", "", ""},
		"no version":      {func(f map[string]string) { f["bin/firecracker*"] = "#!/bin/sh\necho hello\n" }, "does not say its version", "error", "", ""},
		"does not run":    {func(f map[string]string) { f["bin/firecracker*"] = "#!/bin/sh\nexit 3\n" }, "Firecracker does not run", "error", "", ""},
		"no KVM":          {func(f map[string]string) { delete(f, "dev/kvm") }, "Firecracker starts no VM without it", "error", "", ""},
		"TAPs are root's": {nil, "VMMs may not open network devices", "error", "dev/net/tun", ""},
		"hostd":           {nil, "mvm hostd does not start Firecracker yet", "error", "", "/run/mvm/hostd.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(fit)
			if c.spoil != nil {
				c.spoil(files)
			}
			opt := machine(t, files)
			opt.Driver, opt.Hostd, opt.Hello = "firecracker", c.hostd, func(context.Context) error { return nil }
			mode := os.FileMode(0o666)
			if c.private != "" {
				mode = 0o600
			}
			if err := os.Chmod(filepath.Join(opt.Root, "dev/net/tun"), mode); err != nil {
				t.Fatal(err)
			}
			f := find(t, doctor.Host(t.Context(), opt), c.words)
			if f.Severity != c.severity || f.Fix == "" {
				t.Errorf("found %+v, want severity %s with a fix", f, c.severity)
			}
		})
	}
}
