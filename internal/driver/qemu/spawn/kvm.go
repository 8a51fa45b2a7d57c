package spawn

import "mvm/internal/driver/vmproc"

// kvmDevice is what a VMM opens for hardware virtualisation.
const kvmDevice = "/dev/kvm"

// groups are those of the VMM beside its own: none but the one that it takes to open the
// KVM device.
func (l Launch) groups(device string) ([]int, error) {
	if l.Accel != AccelKVM {
		return nil, nil
	}
	return vmproc.KVMGroups(device)
}
