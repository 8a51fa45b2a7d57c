package spawn_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
)

// A VMM gets the KVM device's group where it needs it, and never root's.
func TestGroupsOfAVMM(t *testing.T) {
	const none = -1
	for name, c := range map[string]struct {
		accel string
		gid   int // of the device; none: there is no device
		mode  os.FileMode
		want  []uint32
		fails bool
	}{
		"its own group":            {spawn.AccelKVM, 4711, 0o660, []uint32{4711}, false},
		"for everybody":            {spawn.AccelKVM, 4711, 0o666, nil, false},
		"root's, for everybody":    {spawn.AccelKVM, 0, 0o666, nil, false},
		"root's group":             {spawn.AccelKVM, 0, 0o660, nil, true},
		"root's alone":             {spawn.AccelKVM, 0, 0o600, nil, true},
		"a group that may not":     {spawn.AccelKVM, 4711, 0o600, nil, true},
		"no device":                {spawn.AccelKVM, none, 0, nil, true},
		"root's group, without it": {spawn.AccelTCG, 0, 0o660, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			device := filepath.Join(t.TempDir(), "kvm")
			if c.gid != none {
				if err := os.WriteFile(device, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(device, 0, c.gid); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(device, c.mode); err != nil {
					t.Fatal(err)
				}
			}
			got, err := spawn.Launch{UID: 70000, GID: 70001, Accel: c.accel}.Credential(device)
			if c.fails {
				if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), device) {
					t.Errorf("got %v, want that the device can't be opened", err)
				}
				return
			}
			if err != nil || got.Uid != 70000 || got.Gid != 70001 || !slices.Equal(got.Groups, c.want) {
				t.Errorf("got %+v, %v, want groups %v", got, err, c.want)
			}
		})
	}
}
