package qemu_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/jail"
)

var learn = flag.String("learn", "", "a list of system calls that TestSystemCalls makes anew for the QEMU that is installed: `make vmm-syscalls`")

// walls are all walls, which every VMM of the tests is behind.
func walls() jail.Jail { return jail.Jail{On: true, Required: true} }

// A VMM makes no system call that is not on its list, whatever is done with it.
func TestSystemCalls(t *testing.T) {
	h := newHost(t)
	h.jail = walls()
	var mu sync.Mutex
	seen := map[string]bool{}
	if *learn != "" {
		h.jail.Learn = func(call string) {
			mu.Lock()
			defer mu.Unlock()
			seen[call] = true
		}
	}
	spec := h.spec(t, "i-0000d0ca")
	for i, name := range []string{"root", "data"} {
		path := filepath.Join(spec.Dir, name)
		must(t, os.WriteFile(path, nil, 0o600))
		must(t, os.Truncate(path, 64<<20))
		spec.Disks = append(spec.Disks, driver.Disk{Path: path, Serial: "mvm-x-" + name, ReadOnly: i == 0})
	}
	spec.TAP, spec.MAC, spec.VCPUs = openTAP(t, "tnqemutest1"), "02:fc:00:07:00:0a", 2
	d := h.driver(t)
	v := start(t, d, spec)
	use(t, v)
	snap := drivertest.Snapshot(t, spec)
	for range 2 {
		must(t, v.Pause(t.Context()))
		must(t, v.Snapshot(t.Context(), snap))
		must(t, v.Kill(t.Context()))
		must(t, v.Close())
		next, err := d.Restore(t.Context(), spec, snap)
		must(t, err)
		v = next
		must(t, v.Resume(t.Context()))
		use(t, v)
	}
	_, err := v.Stats(t.Context())
	must(t, err)
	must(t, v.Powerdown(t.Context())) // which this guest does not hear
	_, _ = tryRun(t.Context(), v, "poweroff", "-f")
	<-v.Done()
	if e := v.Exit(); !e.Guest {
		t.Errorf("it ended with %+v, want by its guest", e)
	}
	must(t, v.Close())
	must(t, spec.TAP.Close())
	must(t, d.Destroy(context.Background(), spec))
	if *learn != "" {
		info, err := d.Info(t.Context())
		must(t, err)
		remake(t, *learn, strings.Join(strings.Split(info.Version, ".")[:2], "."), seen)
	}
}

// remake puts into the list what was seen of the version. A call of no version any more goes.
func remake(t *testing.T, path, version string, seen map[string]bool) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	versions := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		versions[f[0]] = slices.DeleteFunc(f[1:], func(v string) bool { return v == version })
	}
	for call := range seen {
		if strings.Contains(call, "(") {
			t.Errorf("%s: a call of which the arguments count: change calls.go", call)
			continue
		}
		versions[call] = append(versions[call], version)
	}
	var text strings.Builder
	for _, call := range slices.Sorted(maps.Keys(versions)) {
		if v := versions[call]; len(v) > 0 {
			slices.Sort(v)
			fmt.Fprintf(&text, "%s %s\n", call, strings.Join(v, " "))
		}
	}
	must(t, os.WriteFile(path, []byte(text.String()), 0o644))
}

// use has the guest do what guests do: compute on all CPUs, read and write its disks and the network,
// and trim.
func use(t *testing.T, v driver.VMM) {
	t.Helper()
	run(t, v, "sh", "-c", `dd if=/dev/urandom of=/dev/vdb bs=1M count=2 conv=fsync 2>&1
dd if=/dev/vdb of=/dev/null bs=64k iflag=direct 2>&1
dd if=/dev/vda of=/dev/null bs=64k 2>&1
(while :; do :; done) & (while :; do :; done) & sleep 0.2; kill %1 %2
ip link set eth0 up; ip addr add 10.9.9.2/24 dev eth0; ping -c 1 -W 1 10.9.9.1
blkdiscard -o 0 -l 1048576 /dev/vdb
cat /dev/vport0p1 </dev/null & sleep 0.1; kill $!
true`)
}
