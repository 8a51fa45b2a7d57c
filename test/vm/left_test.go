package vm_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mvm"
	"mvm/internal/testenv"
)

// wantOwned fails the test unless every VMM, TAP, file and cgroup that there is
// belongs to an instance, and every instance has what its state says.
func (h *host) wantOwned() {
	h.t.Helper()
	testenv.Eventually(h.t, 20*time.Second, func() error { return h.strays(h.instances()) })
}

// wantNothing fails the test when something of an instance is left, or of a network.
func (h *host) wantNothing() {
	h.t.Helper()
	testenv.Eventually(h.t, 20*time.Second, func() error {
		if all := h.instances(); len(all) > 0 {
			return fmt.Errorf("%d instances are left", len(all))
		}
		if err := h.strays(nil); err != nil {
			return err
		}
		if h.driver == "fake" {
			return nil
		}
		left, err := testenv.NetworkLeft()
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left in the network: %s", strings.Join(left, "; "))
		}
		return err
	})
}

// strays says what is there without an owner, or is missing.
func (h *host) strays(all []mvm.Instance) error {
	owner := map[string]mvm.Instance{}
	for _, i := range all {
		if i.Op != nil {
			i.State = mvm.StateRunning // what its operation makes is its own
		}
		owner[i.ID] = i
	}
	var wrong []string
	for id, n := range vmms(h.dir) {
		if i := owner[id]; !i.State.HoldsMemory() || n != 1 {
			wrong = append(wrong, fmt.Sprintf("%d VMMs of %s, which is %q", n, id, i.State))
		}
	}
	for id, i := range owner {
		if i.State.HoldsMemory() && i.Op == nil && h.driver == "qemu" && vmms(h.dir)[id] == 0 {
			wrong = append(wrong, fmt.Sprintf("%s is %s and has no VMM", id, i.State))
		}
	}
	wrong = append(wrong, h.strayFiles(owner)...)
	if h.driver == "qemu" {
		wrong = append(wrong, strayLinks(all)...)
	}
	wrong = append(wrong, h.strayCgroups(owner)...)
	if len(wrong) > 0 {
		return fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return nil
}

// vmms counts the VMM processes of the host by instance.
func vmms(dir string) map[string]int {
	n := map[string]int{}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range lines {
		b, _ := os.ReadFile(p) // it may end meanwhile
		args := strings.Split(string(b), "\x00")
		for k, a := range args {
			if k > 0 && args[k-1] == "-name" && strings.HasPrefix(a, "mvm:") && strings.Contains(a, dir+"/") {
				n[strings.Split(a, ":")[1]]++
			}
		}
	}
	return n
}

func (h *host) strayFiles(owner map[string]mvm.Instance) []string {
	var wrong []string
	for _, root := range []string{filepath.Join(h.data, "instances"), filepath.Join(h.dir, "r", "i")} {
		entries, err := os.ReadDir(root)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		for _, e := range entries {
			i, ok := owner[e.Name()]
			if !ok || root != filepath.Join(h.data, "instances") && !i.State.HoldsMemory() {
				wrong = append(wrong, fmt.Sprintf("%s, while it is %q", filepath.Join(root, e.Name()), i.State))
			}
		}
	}
	err := filepath.WalkDir(filepath.Join(h.data, "instances"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(filepath.Join(h.data, "instances"), p)
		if why := h.strayFile(rel, owner); why != "" {
			wrong = append(wrong, "file "+rel+": "+why)
		}
		return nil
	})
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// strayFile says what is wrong with a file below instances.
func (h *host) strayFile(rel string, owner map[string]mvm.Instance) string {
	id, name, _ := strings.Cut(rel, "/")
	i := owner[id]
	switch {
	case name == "data.img", name == "fake-disk.json", strings.HasPrefix(name, "console.log"), strings.HasPrefix(name, "set-aside/"), keptLog(name):
		return ""
	case strings.HasPrefix(name, "segments/") && (i.State.HoldsMemory() || i.Snapshot != nil || len(i.SetAside) > 0):
		return ""
	case name == "memory" && i.State.HoldsMemory() && h.driver == "fake": // it holds nothing, and says that a guest runs
		return ""
	case strings.HasPrefix(name, "previous/") && i.State.HoldsMemory():
		return ""
	case i.Snapshot != nil && strings.HasPrefix(name, "snapshots/"+i.Snapshot.ID+"/"):
		return ""
	}
	return fmt.Sprintf("nobody needs it: %s is %q", id, i.State)
}

// keptLog reports that the file is of the log that the host keeps of a guest.
func keptLog(name string) bool {
	return strings.HasPrefix(name, "log.jsonl") || strings.HasPrefix(name, "previous.jsonl")
}

// strayLinks lists TAPs of instances that have no VMM, and bridges without tenant.
func strayLinks(all []mvm.Instance) []string {
	taps, bridges := map[string]bool{}, map[string]bool{}
	for _, i := range all {
		var hi, lo, ohi, olo int
		if _, err := fmt.Sscanf(i.MAC, "02:fc:%02x:%02x:%02x:%02x", &hi, &lo, &ohi, &olo); err != nil {
			return []string{i.MAC + " is no MAC"}
		}
		bridges["interface "+mvm.BridgeName(hi<<8|lo)] = true
		if i.State.HoldsMemory() || i.Op != nil {
			taps["interface "+mvm.TAPName(hi<<8|lo, ohi<<8|olo)] = true
		}
	}
	left, err := testenv.NetworkLeft()
	if err != nil {
		return []string{err.Error()}
	}
	var wrong []string
	for _, l := range left {
		bridge := strings.HasPrefix(l, "interface br-")
		if strings.HasPrefix(l, "interface tn") && !taps[l] || bridge && len(all) > 0 && !bridges[l] {
			wrong = append(wrong, l)
		}
	}
	return wrong
}

// strayCgroups lists the cgroups of instances that this host had and that have no VMM.
func (h *host) strayCgroups(owner map[string]mvm.Instance) []string {
	var wrong []string
	for id := range h.seen {
		if owner[id].State.HoldsMemory() {
			continue
		}
		_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(d.Name(), id) {
				wrong = append(wrong, "cgroup "+p)
			}
			return nil // cgroups of others come and go
		})
	}
	return wrong
}
