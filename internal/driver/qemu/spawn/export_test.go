package spawn

import "syscall"

// Credential is what the VMM is started as where the device is the KVM device.
func (l Launch) Credential(device string) (*syscall.Credential, error) { return l.credential(device) }
