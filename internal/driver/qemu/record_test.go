package qemu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/driver"
)

// A vmm.json that lies, or is none, never makes the driver touch a process that is
// not the instance's VMM.
func TestRecordThatLies(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00016000")
	self := os.Getpid()
	for name, text := range map[string]string{
		"empty":          "",
		"no JSON":        "{",
		"other version":  fmt.Sprintf(`{"version":2,"pid":%d}`, self),
		"another's pid":  fmt.Sprintf(`{"version":1,"id":%q,"pid":%d,"start_ticks":1}`, spec.ID, self),
		"no process":     `{"version":1,"pid":4194303}`,
		"init":           `{"version":1,"pid":1}`,
		"a group":        `{"version":1,"pid":-1}`,
		"zero":           `{"version":1,"pid":0}`,
		"endless":        strings.Repeat(" ", 1<<20),
		"foreign cgroup": `{"version":1,"pid":0,"cgroups":["/sys/fs/cgroup/none"],"memory":"/none"}`,
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(filepath.Join(spec.RunDir, "vmm.json"), []byte(text), 0o600))
			if _, err := d.Recover(t.Context(), spec); !mvm.IsKind(err, mvm.KindNotFound) {
				t.Errorf("recover: %v, want not found", err)
			}
			must(t, os.WriteFile(filepath.Join(spec.RunDir, "vmm.json"), []byte(text), 0o600))
			if err := d.Destroy(t.Context(), spec); err != nil {
				t.Errorf("destroy: %v", err)
			}
			h.empty(t, name, spec)
		})
	}
}

// All that RunDir had is lost, as when /run is cleared: Destroy finds the VMM by its
// name, and its cgroup.
func TestRunDirIsLost(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00018000")
	v := start(t, d, spec)
	must(t, v.Close())
	must(t, os.RemoveAll(spec.RunDir))
	must(t, h.driver(t).Destroy(t.Context(), spec))
	if err := syscall.Kill(v.PID(), 0); err == nil {
		t.Error("the VMM still lives")
	}
	must(t, os.Mkdir(spec.RunDir, 0o700))
	h.empty(t, "clearing RunDir", spec)
}

// What can't be put into QEMU's arguments is refused, not passed on.
func TestSpecThatInjects(t *testing.T) {
	h := newHost(t)
	d, good := h.driver(t), h.spec(t, "i-00017000")
	for name, spoil := range map[string]func(*driver.Spec){
		"id":     func(s *driver.Spec) { s.ID = "x,debug-threads=on" },
		"serial": func(s *driver.Spec) { s.Disks = []driver.Disk{{Path: s.Kernel, Serial: "a,drive=b", ReadOnly: true}} },
		"mac":    func(s *driver.Spec) { s.TAP, s.MAC = os.Stdin, "02:fc:00:00:00:01,romfile=/etc/passwd" },
		"run dir": func(s *driver.Spec) {
			s.RunDir = filepath.Join(s.RunDir, "a,b")
			must(t, os.Mkdir(s.RunDir, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := good
			spoil(&spec)
			if v, err := d.Start(t.Context(), spec); !mvm.IsKind(err, mvm.KindInvalid) {
				t.Errorf("start: %v, %v; want invalid", v, err)
			}
		})
	}
}
