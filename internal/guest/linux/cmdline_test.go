package linux

import "testing"

// A VMM that sets no serials says on the command line which disk is which, and is believed.
func TestDiskByOrder(t *testing.T) {
	for _, c := range []struct {
		line, serial, dev string
		told              bool
	}{
		{"console=ttyS0 mvm.disks=mvm-root,mvm-data panic=-1", "mvm-root", "/dev/vda", true},
		{"mvm.disks=mvm-root,mvm-data", "mvm-data", "/dev/vdb", true},
		{"mvm.disks=mvm-data", "mvm-data", "/dev/vda", true},
		{"mvm.disks=mvm-root", "mvm-data", "", true},
		{"mvm.root=mvm-root", "mvm-root", "", false},
		{"mvm.disks= mvm.root=x", "x", "", false},
		{"xmvm.disks=mvm-data", "mvm-data", "", false},
		{"mvm.disks=,,,,,,,,,,,,,,,,,,,,,,,,,,mvm-data", "mvm-data", "", true},
	} {
		if dev, told := diskByOrder(c.line, c.serial); dev != c.dev || told != c.told {
			t.Errorf("%q, disk %q: %q, %v; want %q, %v", c.line, c.serial, dev, told, c.dev, c.told)
		}
	}
}

// A machine without a power switch is reset to end it.
func TestOffByReset(t *testing.T) {
	for line, want := range map[string]bool{"": false, "reboot=k": false, "mvm.poweroff=reboot console=ttyS0": true, "mvm.poweroff=off": false} {
		if got := offByReset(line); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}
