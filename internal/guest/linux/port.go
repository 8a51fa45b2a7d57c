package linux

import (
	"os"
	"path/filepath"
	"strings"

	"mvm"
)

// portName is the virtio-serial port of the guest channel.
const portName = "mvm.0"

// WaitPort returns the device of the guest channel's port, once the kernel has it.
// No udev is needed.
func WaitPort() (string, error) {
	var dev string
	err := waitFor("virtio-serial port "+portName, func() bool {
		dev = FindPort()
		return dev != ""
	})
	return dev, err
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
