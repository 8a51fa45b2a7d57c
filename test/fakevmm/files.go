package fakevmm

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openNonblock opens a file or pipe as Firecracker does, for reading and writing.
func openNonblock(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openTAP opens a TAP by its name, without rights beyond those of its owner.
func (m *machine) openTAP(name string) (*os.File, error) {
	tun := filepath.Join(m.dir, TUNFile)
	if _, err := os.Stat(tun); err != nil {
		tun = "/dev/net/tun"
	}
	fd, err := unix.Open(tun, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
