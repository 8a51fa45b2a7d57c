package spawn

import (
	"golang.org/x/sys/unix"

	"mvm"
)

// kvmDevice is what a VMM opens for hardware virtualisation.
const kvmDevice = "/dev/kvm"

// groups are those of the VMM beside its own: none but the one that it takes to open the
// KVM device.
func (l Launch) groups(device string) ([]int, error) {
	if l.Accel != AccelKVM {
		return nil, nil
	}
	return kvmGroups(device)
}

// kvmGroups are the groups that an unprivileged process needs to open the device: none
// where everybody may, and never root's, whose files are everywhere. KindUnavailable where
// no group that may be given lets it.
func kvmGroups(device string) ([]int, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "look at %s for the VMM: %w", device, err).WithFix("see `mvm doctor`")
	}
	switch {
	case st.Mode&0o006 == 0o006:
		return nil, nil
	case st.Gid != 0 && st.Mode&0o060 == 0o060:
		return []int{int(st.Gid)}, nil
	}
	return nil, mvm.Errorf(mvm.KindUnavailable, "open %s as the VMM's user: it has mode %04o and group %d, and mvm never puts a VMM into root's group",
		device, st.Mode&0o777, st.Gid).WithFix("give the device its own group: groupadd -f -r kvm && chgrp kvm %[1]s && chmod 0660 %[1]s", device)
}
