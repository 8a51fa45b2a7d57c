package linux

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mvm"
)

// portName is the virtio-serial port of the guest channel.
const portName = "mvm.0"

// WaitPort returns the device of the guest channel's port, once the kernel has it, or ""
// once it has a vsock device instead. No udev is needed.
func WaitPort() (string, error) {
	var dev string
	err := waitFor("virtio-serial port "+portName+" or vsock device", func() bool {
		dev = FindPort()
		return dev != "" || HasVsock() && hasVirtio(virtioVsock)
	})
	return dev, err
}

// virtioVsock is the virtio id of vsock devices in sysfs.
const virtioVsock = "0x0013"

// hasVirtio reports that the machine has a virtio device of the id.
func hasVirtio(id string) bool {
	devices, err := filepath.Glob("/sys/bus/virtio/devices/*/device")
	return err == nil && slices.ContainsFunc(devices, func(file string) bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.TrimSpace(string(b)) == id
	})
}

// FindPort returns the device of the guest channel's port, "" when there is none.
func FindPort() string {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return ""
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		dev := "/dev/" + filepath.Base(filepath.Dir(f))
		if err == nil && strings.TrimSpace(string(b)) == portName && there(dev) {
			return dev
		}
	}
	return ""
}

// HasVsock reports whether the kernel has vsock sockets.
func HasVsock() bool { return there("/dev/vsock") }

// NoChannel is the error of a machine that gives no way to the host.
func NoChannel() error {
	return mvm.Errorf(mvm.KindUnavailable, "find guest channel: there is neither a virtio-serial port %s nor /dev/vsock", portName).
		WithFix("the VMM must provide one of them, and the kernel needs its driver")
}
