// Package linux is what the guest agent does to its kernel: the boot as PID 1
// (mounts, modules, disks, the change to the root filesystem) and the operations of
// guest.System (clock, entropy, network, power).
package linux
