package linux

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
)

// modulesFile lists the modules of the initrd in the order of loading, one
// absolute path per line.
const modulesFile = "/etc/mvm/modules"

// mmioModulesFile lists those that a machine without PCI, such as Firecracker's, needs too.
const mmioModulesFile = "/etc/mvm/modules-mmio"

// deviceTimeout bounds the wait for a device; an emulated machine may be slow.
const deviceTimeout = 30 * time.Second

// mount is one file system of the machine.
type mount struct {
	kind, dir, options string
	flags              uintptr
}

// Boot makes an initrd a place to live in: mounts, modules, limits, the loopback
// interface. Where the kernel command line has mvm.root=<serial>, the disk of that
// serial becomes the root file system: Boot then replaces this program by itself in
// there, and returns only when that failed. PID 1 calls it first.
func Boot(log *slog.Logger) error {
	began := time.Now()
	if err := mountAll(); err != nil {
		return err
	}
	lists := []string{modulesFile}
	if pci, err := filepath.Glob("/sys/bus/pci/devices/*"); err == nil && len(pci) == 0 {
		lists = append(lists, mmioModulesFile)
	}
	for _, list := range lists {
		if err := loadModules(list, log); err != nil {
			return err
		}
	}
	if err := errors.Join(setLimits(), RaiseQueues(), loopbackUp()); err != nil {
		return mvm.Errorf(mvm.KindInternal, "boot: %w", err)
	}
	if err := waitForDisks(); err != nil {
		return err
	}
	log.Info("kernel is ready", "took", time.Since(began))
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "boot: %w", err)
	}
	if serial := cmdline(string(b), "mvm.root"); serial != "" {
		return switchRoot(serial, cmdline(string(b), "mvm.rootfstype"))
	}
	return nil
}

func mountAll() error {
	const private = unix.MS_NOSUID | unix.MS_NODEV
	for _, m := range []mount{
		{"proc", "/proc", "", private | unix.MS_NOEXEC},
		{"sysfs", "/sys", "", private | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
		{"devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", private},
		{"tmpfs", "/run", "mode=0755", private},
		{"tmpfs", "/tmp", "mode=1777", private},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, "/dev/"+name); err != nil && !errors.Is(err, fs.ErrExist) {
			return mvm.Errorf(mvm.KindInternal, "boot: %w", err)
		}
	}
	return nil
}

// do mounts, unless the kernel has done it already.
func (m mount) do() error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return mvm.Errorf(mvm.KindInternal, "mount %s: %w", m.dir, err)
	}
	if err := unix.Mount(m.kind, m.dir, m.kind, m.flags, m.options); err != nil && !errors.Is(err, unix.EBUSY) {
		return mvm.Errorf(mvm.KindInternal, "mount %s on %s: %w", m.kind, m.dir, err)
	}
	return nil
}

// loadModules loads every module of the list; one that is there already is fine,
// and one that fails is told and left out, because the machine may do without it.
func loadModules(list string, log *slog.Logger) error {
	f, err := os.Open(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "load modules: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		path := strings.TrimSpace(lines.Text())
		if path == "" {
			continue
		}
		if err := loadModule(path); err != nil {
			log.Error("load module", "path", path, "error", err)
		}
	}
	return lines.Err()
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// setLimits raises the number of open files for all that is started, and keeps the
// OOM killer from PID 1.
func setLimits() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 65536, Max: 524288}); err != nil {
		return fmt.Errorf("set limit of open files: %w", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("protect PID 1 from the OOM killer: %w", err)
	}
	return nil
}

// RaiseQueues has the kernel hold a burst of new connections until programs take them,
// where it is set to hold fewer, and lets a port of a connection that has ended be used
// for the next one to the same address. By default a small machine drops what comes
// beyond 128 half-open connections; each dropped one comes again after a second.
func RaiseQueues() error {
	for _, k := range []struct {
		name  string
		value int
		exact bool // another value is not more of the same
	}{
		{"core/somaxconn", 4096, false}, {"ipv4/tcp_max_syn_backlog", 4096, false}, {"ipv4/tcp_tw_reuse", 1, true},
	} {
		file := "/proc/sys/net/" + k.name
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		have, convErr := strconv.Atoi(strings.TrimSpace(string(b)))
		if err = errors.Join(err, convErr); err == nil && have != k.value && (k.exact || have < k.value) {
			err = os.WriteFile(file, []byte(strconv.Itoa(k.value)), 0)
		}
		if err != nil {
			return fmt.Errorf("set net/%s to %d: %w", k.name, k.value, err)
		}
	}
	return nil
}

func loopbackUp() error {
	r, err := openRoute()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer r.Close()
	if err := r.LinkSetUp(linkOf(loopback)); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// virtioBlock is the virtio id of block devices in sysfs.
const virtioBlock = "0x0002"

// waitForDisks waits until every virtio block device that the machine has is a
// block device of the kernel, where its driver is loaded.
func waitForDisks() error {
	return waitFor("virtio disks", func() bool {
		devices, err := filepath.Glob("/sys/bus/virtio/devices/*")
		if err != nil {
			return true
		}
		for _, d := range devices {
			id, err := os.ReadFile(d + "/device")
			if err != nil || strings.TrimSpace(string(id)) != virtioBlock || !there("/sys/bus/virtio/drivers/virtio_blk") {
				continue
			}
			if disks, err := filepath.Glob(d + "/block/*"); err != nil || len(disks) == 0 {
				return false
			}
		}
		return true
	})
}

// findDisk returns the device of the virtio disk with the serial, "" when there is
// none. Where the command line says in which order the disks are, it is believed: a VMM
// that sets no serials says so.
func findDisk(serial string) string {
	if b, err := os.ReadFile("/proc/cmdline"); err == nil {
		if dev, told := diskByOrder(string(b), serial); told {
			return dev
		}
	}
	files, err := filepath.Glob("/sys/block/*/serial")
	if err != nil {
		return ""
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.TrimSpace(string(b)) == serial {
			return "/dev/" + filepath.Base(filepath.Dir(f))
		}
	}
	return ""
}

// maxDisks is how many disks mvm.disks may name: vda to vdz.
const maxDisks = 26

// diskByOrder returns the device of the disk with the serial by mvm.disks=<serial>,… of the
// command line: the first of them is vda. told is false where the command line has none.
func diskByOrder(line, serial string) (dev string, told bool) {
	order := cmdline(line, "mvm.disks")
	if order == "" {
		return "", false
	}
	i := slices.Index(strings.Split(order, ","), serial)
	if i < 0 || i >= maxDisks {
		return "", true
	}
	return "/dev/vd" + string(rune('a'+i)), true
}

// DataDisk is the serial of the disk that is mounted on /data.
const DataDisk = "mvm-data"

// MountData mounts the data disk on /data, where the machine has one.
func MountData(log *slog.Logger) error {
	dev := findDisk(DataDisk)
	if dev == "" {
		return nil
	}
	log.Info("data disk", "device", dev)
	if err := waitFor(dev, func() bool { return there(dev) }); err != nil {
		return err
	}
	if err := os.MkdirAll("/data", 0o755); err != nil {
		return mvm.Errorf(mvm.KindInternal, "mount data disk: %w", err)
	}
	err := unix.Mount(dev, "/data", "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return mvm.Errorf(mvm.KindInternal, "mount data disk %s on /data: %w", dev, err)
	}
	if err := growExt4("/data", dev); err != nil { // what is there can be used all the same
		log.Error("grow data disk", "device", dev, "error", err)
	}
	return nil
}

// waitFor polls until the condition holds, for deviceTimeout.
func waitFor(what string, holds func() bool) error {
	for deadline := time.Now().Add(deviceTimeout); !holds(); {
		if time.Now().After(deadline) {
			return mvm.Errorf(mvm.KindTimeout, "wait for %s: not there after %s", what, deviceTimeout)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
