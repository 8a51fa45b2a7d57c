package sys_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm/internal/sys"
)

// Trees of files stand for hosts: they show what is decided, not what a kernel does.
func TestWhetherCgroupsBound(t *testing.T) {
	const v2 = "30 1 0:26 / /cg rw - cgroup2 cgroup2 rw\n"
	unit := func(procs string) map[string]string {
		return map[string]string{"cg/unit/cgroup.controllers": "memory pids", "cg/unit/cgroup.type": "domain", "cg/unit/cgroup.procs": procs}
	}
	for name, c := range map[string]struct {
		cgroup, mounts string
		files          map[string]string
		want           string // "": bounded
	}{
		"v1":                          {"3:memory:/a\n2:pids:/a\n", "30 1 0:26 / /m rw - cgroup m rw,memory\n31 1 0:27 / /p rw - cgroup p rw,pids\n", nil, ""},
		"v1 without pids":             {"3:memory:/a\n", "30 1 0:26 / /m rw - cgroup m rw,memory\n", nil, "pids controller"},
		"nothing":                     {"", "", nil, "memory controller"},
		"v2, among processes":         {"0::/unit\n", v2, unit("1\n"), "has processes"},
		"v2, beside":                  {"0::/unit/mvm-self\n", v2, unit(""), ""},
		"v2, beside others":           {"0::/unit/mvm-self\n", v2, unit("7\n"), "has processes"},
		"v2, another leaf":            {"0::/unit/other\n", v2, map[string]string{"cg/unit/other/cgroup.controllers": ""}, "memory controller"},
		"v2, the root of all":         {"0::/\n", v2, map[string]string{"cg/cgroup.controllers": "cpu memory pids", "cg/cgroup.procs": "1\n"}, ""},
		"v2 beside, without memory":   {"0::/unit/mvm-self\n", v2, map[string]string{"cg/unit/cgroup.controllers": "pids"}, "memory controller"},
		"v1, and v2 without anything": {"3:memory,pids:/a\n0::/unit\n", v2 + "31 1 0:27 / /m rw - cgroup m rw,memory,pids\n", map[string]string{"cg/unit/cgroup.controllers": ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			put := func(path, text string) {
				t.Helper()
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			put("proc/self/cgroup", c.cgroup)
			put("proc/self/mountinfo", c.mounts)
			for path, text := range c.files {
				put(path, text)
			}
			err := sys.CgroupsBound(root)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
