package vmproc

import (
	"golang.org/x/sys/unix"

	"mvm"
)

// KVMGroups are the groups that an unprivileged process needs to open the KVM device, as
// DeviceGroups are.
func KVMGroups(device string) ([]int, error) {
	groups, err := DeviceGroups(device)
	if mvm.IsKind(err, mvm.KindPolicy) {
		return nil, mvm.Errorf(mvm.KindUnavailable, "%w", err).
			WithFix("give the device its own group: groupadd -f -r kvm && chgrp kvm %[1]s && chmod 0660 %[1]s", device)
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "%w", err).WithFix("see `mvm doctor`")
	}
	return groups, nil
}

// DeviceGroups are the groups that an unprivileged process needs to open a device: none
// where everybody may, and never root's, whose files are everywhere. KindPolicy where no
// group that may be given lets it.
func DeviceGroups(device string) ([]int, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "look at %s for the VMM: %w", device, err)
	}
	switch {
	case st.Mode&0o006 == 0o006:
		return nil, nil
	case st.Gid != 0 && st.Mode&0o060 == 0o060:
		return []int{int(st.Gid)}, nil
	}
	return nil, mvm.Errorf(mvm.KindPolicy, "open %s as the VMM's user: it has mode %04o and group %d, and mvm never puts a VMM into root's group",
		device, st.Mode&0o777, st.Gid)
}
