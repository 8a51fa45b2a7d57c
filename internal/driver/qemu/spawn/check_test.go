package spawn_test

import (
	"strings"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
)

func bootable() spawn.Launch {
	return spawn.Launch{Name: vmproc.Name{ID: "i-00000001", RunDir: "/run/mvm/i/i-00000001"}, UID: 70000, GID: 70000, Cgroup: "mvm-i-00000001",
		Accel: spawn.AccelTCG, TSCkHz: 2000000, VCPUs: 2, MemMiB: 512, Cmdline: "quiet", MAC: "02:fc:00:00:00:01", Disks: []spawn.Disk{{Serial: "root"}}}
}

// What a Launch may ask for is taken up to its limit, and refused beyond.
func TestLimitsOfALaunch(t *testing.T) {
	disks := func(n int) []spawn.Disk {
		all := make([]spawn.Disk, n)
		for i := range all {
			all[i].Serial = "data"
		}
		return all
	}
	path := func(n int) string { return "/" + strings.Repeat("r", n-1) }
	type change func(l *spawn.Launch)
	for name, c := range map[string]struct{ good, bad []change }{
		"user": {[]change{func(l *spawn.Launch) { l.UID = 1 }, func(l *spawn.Launch) { l.UID = 1<<31 - 1 }},
			[]change{func(l *spawn.Launch) { l.UID = 0 }, func(l *spawn.Launch) { l.UID = 1 << 31 }, func(l *spawn.Launch) { l.UID = -1 }}},
		"group": {[]change{func(l *spawn.Launch) { l.GID = 1 }, func(l *spawn.Launch) { l.GID = 1<<31 - 1 }},
			[]change{func(l *spawn.Launch) { l.GID = 0 }, func(l *spawn.Launch) { l.GID = 1 << 31 }}},
		"vCPUs": {[]change{func(l *spawn.Launch) { l.VCPUs = 1 }, func(l *spawn.Launch) { l.VCPUs = 255 }},
			[]change{func(l *spawn.Launch) { l.VCPUs = 0 }, func(l *spawn.Launch) { l.VCPUs = 256 }}},
		"memory": {[]change{func(l *spawn.Launch) { l.MemMiB = 16 }, func(l *spawn.Launch) { l.MemMiB = 16 << 20 }},
			[]change{func(l *spawn.Launch) { l.MemMiB = 15 }, func(l *spawn.Launch) { l.MemMiB = 16<<20 + 1 }}},
		"clock": {[]change{func(l *spawn.Launch) { l.TSCkHz = 0 }, func(l *spawn.Launch) { l.TSCkHz = 100_000_000 }},
			[]change{func(l *spawn.Launch) { l.TSCkHz = -1 }, func(l *spawn.Launch) { l.TSCkHz = 100_000_001 }}},
		"kernel arguments": {[]change{func(l *spawn.Launch) { l.Cmdline = "" }, func(l *spawn.Launch) { l.Cmdline = strings.Repeat("a", 1847) }},
			[]change{func(l *spawn.Launch) { l.Cmdline = strings.Repeat("a", 1848) }, func(l *spawn.Launch) { l.Cmdline = "a\nb" }, func(l *spawn.Launch) { l.Cmdline = "a\x00" }}},
		"disks": {[]change{func(l *spawn.Launch) { l.Disks = nil }, func(l *spawn.Launch) { l.Disks = disks(8) }},
			[]change{func(l *spawn.Launch) { l.Disks = disks(9) }}},
		"serial": {[]change{func(l *spawn.Launch) { l.Disks[0].Serial = strings.Repeat("s", 20) }},
			[]change{func(l *spawn.Launch) { l.Disks[0].Serial = "" }, func(l *spawn.Launch) { l.Disks[0].Serial = strings.Repeat("s", 21) },
				func(l *spawn.Launch) { l.Disks[0].Serial = "a,b" }, func(l *spawn.Launch) { l.Disks[0].Serial = "a=b" }, func(l *spawn.Launch) { l.Disks[0].Serial = "a b" },
				func(l *spawn.Launch) { l.Disks = append(l.Disks, spawn.Disk{}) }}},
		"accelerator":  {[]change{func(l *spawn.Launch) { l.Accel = spawn.AccelKVM }}, []change{func(l *spawn.Launch) { l.Accel = "" }, func(l *spawn.Launch) { l.Accel = "xen" }}},
		"capabilities": {[]change{func(l *spawn.Launch) { l.Accel, l.NoArchCaps = spawn.AccelKVM, true }}, []change{func(l *spawn.Launch) { l.NoArchCaps = true }}},
		"MAC":          {[]change{func(l *spawn.Launch) { l.MAC = "" }}, []change{func(l *spawn.Launch) { l.MAC = "02:fc:00:00:00" }}},
		"cgroup":       {[]change{func(l *spawn.Launch) { l.Cgroup = "" }}, []change{func(l *spawn.Launch) { l.Cgroup = "mvm-i-00000002" }}},
		"id": {[]change{func(l *spawn.Launch) { l.ID, l.Cgroup = strings.Repeat("a", 32), "" }},
			[]change{func(l *spawn.Launch) { l.ID, l.Cgroup = strings.Repeat("a", 33), "" }, func(l *spawn.Launch) { l.ID, l.Cgroup = "", "" }, func(l *spawn.Launch) { l.ID, l.Cgroup = "a:b", "" }}},
		"run dir": {[]change{func(l *spawn.Launch) { l.RunDir = path(vmproc.MaxRunDir) }},
			[]change{func(l *spawn.Launch) { l.RunDir = path(vmproc.MaxRunDir + 1) }, func(l *spawn.Launch) { l.RunDir = "run/x" }, func(l *spawn.Launch) { l.RunDir = "/run/../x" },
				func(l *spawn.Launch) { l.RunDir = "/run/x/" }, func(l *spawn.Launch) { l.RunDir = "/run/a,b" }, func(l *spawn.Launch) { l.RunDir = "/run/a\nb" }}},
	} {
		for i, good := range c.good {
			l := bootable()
			good(&l)
			if err := l.Check(); err != nil {
				t.Errorf("%s that fits (%d): %v", name, i, err)
			}
		}
		for i, bad := range c.bad {
			l := bootable()
			bad(&l)
			if err := l.Check(); !mvm.IsKind(err, mvm.KindInvalid) {
				t.Errorf("%s beyond its limit (%d): %v, want it refused", name, i, err)
			}
		}
	}
}

// Bounds that leave something open are not complete.
func TestCompleteBounds(t *testing.T) {
	whole := vmproc.Bounds{RunRoot: "/run/mvm/i", ProbeRoot: "/run/mvm/q", FirstUID: 1, LastUID: 1}
	if !whole.Complete() {
		t.Error("bounds of one user are not complete")
	}
	for name, spoil := range map[string]func(b *vmproc.Bounds){
		"no folder of instances": func(b *vmproc.Bounds) { b.RunRoot = "" }, "no folder of probes": func(b *vmproc.Bounds) { b.ProbeRoot = "" },
		"root": func(b *vmproc.Bounds) { b.FirstUID = 0 }, "no user": func(b *vmproc.Bounds) { b.FirstUID = 2 },
	} {
		b := whole
		if spoil(&b); b.Complete() {
			t.Errorf("%s: complete", name)
		}
	}
}
