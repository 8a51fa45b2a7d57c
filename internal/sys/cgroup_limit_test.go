package sys_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm/internal/sys"
)

// Trees of files stand for hosts: they show which files are written, in the form of their
// version, and that none is made.
func TestLimitsOfACgroupAreChanged(t *testing.T) {
	const v1 = "30 1 0:26 / /m rw - cgroup m rw,memory\n31 1 0:27 / /c rw - cgroup c rw,cpu,cpuacct\n"
	const v2 = "30 1 0:26 / /cg rw - cgroup2 cgroup2 rw\n"
	lim := sys.CgroupLimits{CPUWeight: 50, CPUMilli: 250}
	for name, c := range map[string]struct {
		cgroup, mounts string
		lim            sys.CgroupLimits
		files          map[string]string // before
		want           map[string]string // after
		wrong          string
	}{
		"v1": {"3:memory:/\n2:cpu,cpuacct:/\n", v1, lim, map[string]string{"c/x/cpu.shares": "", "c/x/cpu.cfs_period_us": "", "c/x/cpu.cfs_quota_us": ""},
			map[string]string{"c/x/cpu.shares": "512", "c/x/cpu.cfs_period_us": "100000", "c/x/cpu.cfs_quota_us": "25000"}, ""},
		"v2, delegated": {"0::/unit/mvm-self\n", v2, lim,
			map[string]string{"cg/unit/cgroup.controllers": "cpu memory pids", "cg/unit/x/cpu.weight": "100", "cg/unit/x/cpu.max": "max 100000", "cg/unit/x/memory.max": "77"},
			map[string]string{"cg/unit/x/cpu.weight": "50", "cg/unit/x/cpu.max": "25000 100000", "cg/unit/x/memory.max": "77"}, ""},
		"v2, weight alone": {"0::/unit/mvm-self\n", v2, sys.CgroupLimits{CPUWeight: 7},
			map[string]string{"cg/unit/cgroup.controllers": "cpu memory pids", "cg/unit/x/cpu.weight": "100", "cg/unit/x/cpu.max": "max 100000"},
			map[string]string{"cg/unit/x/cpu.weight": "7", "cg/unit/x/cpu.max": "max 100000"}, ""},
		"v2 without cpu": {"0::/unit/mvm-self\n", v2, lim, map[string]string{"cg/unit/cgroup.controllers": "memory pids"}, nil, "cpu controller"},
		"no such cgroup": {"3:memory:/\n2:cpu,cpuacct:/\n", v1, lim, map[string]string{"c/other/cpu.shares": ""}, nil, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			files := map[string]string{"proc/self/cgroup": c.cgroup, "proc/self/mountinfo": c.mounts}
			for path, text := range c.files {
				files[path] = text
			}
			for path, text := range files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := sys.LimitCgroup(root, "x", c.lim)
			if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("got %v, want %q", err, c.wrong)
			}
			for path, want := range c.want {
				if b, err := os.ReadFile(filepath.Join(root, path)); err != nil || strings.TrimRight(string(b), "\x00") != want && !strings.HasPrefix(string(b), want) {
					t.Errorf("%s is %q, %v; want %q", path, b, err, want)
				}
			}
		})
	}
}
