package qemu_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/qemu"
	"mvm/internal/testenv"
)

func start(t testing.TB, d driver.Driver, spec driver.Spec) driver.VMM {
	t.Helper()
	v, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, d.Destroy(context.Background(), spec)) })
	return v
}

// openTAP makes a TAP as the network package does: it goes with its last holder.
func openTAP(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	must(t, err)
	ifr, err := unix.NewIfreq(name)
	must(t, err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	must(t, unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr))
	return f
}

// The guest has the disks and the network of its Spec, and the VMM is confined.
func TestDevicesAndConfinement(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-0000d000")
	for i, name := range []string{"root", "data"} {
		path := filepath.Join(spec.Dir, name)
		must(t, os.WriteFile(path, []byte(fmt.Sprintf("%-8192s", "I am "+name)), 0o600))
		must(t, os.Truncate(path, 16<<20))
		spec.Disks = append(spec.Disks, driver.Disk{Path: path, Serial: "mvm-x-" + name, ReadOnly: i == 0})
	}
	spec.TAP, spec.MAC, spec.VCPUs = openTAP(t, "tnqemutest0"), "02:fc:00:07:00:09", 2
	v := start(t, h.driver(t), spec)
	must(t, spec.TAP.Close())
	ping(t, v)
	for _, c := range []struct{ want, file string }{
		{"mvm-x-root", "/sys/block/vda/serial"},
		{"1", "/sys/block/vda/ro"},
		{"mvm-x-data", "/sys/block/vdb/serial"},
		{"0", "/sys/block/vdb/ro"},
		{spec.MAC, "/sys/class/net/eth0/address"},
		{"0-1", "/sys/devices/system/cpu/online"},
	} {
		if got := run(t, v, "cat", c.file); got != c.want {
			t.Errorf("guest's %s is %q, want %q", c.file, got, c.want)
		}
	}
	testenv.Eventually(t, patience, func() error { // the kernel trusts it some time after its boot
		if got := run(t, v, "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource"); got != "tsc" {
			return fmt.Errorf("guest's clock source is %q, want tsc", got)
		}
		return nil
	})
	if got := run(t, v, "head", "-c", "9", "/dev/vdb"); got != "I am data" {
		t.Errorf("data disk begins with %q", got)
	}
	confined(t, v, spec)
	st, err := v.Stats(t.Context())
	if err != nil || st.CPU == 0 || st.RSSBytes < 16<<20 || st.DiskRead == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	if _, err := net.InterfaceByName("tnqemutest0"); err != nil {
		t.Errorf("the TAP while the VMM runs: %v", err)
	}
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	if _, err := net.InterfaceByName("tnqemutest0"); err == nil {
		t.Error("the TAP outlives the VMM")
	}
	if _, err := os.Stat(spec.Memory); !os.IsNotExist(err) {
		t.Errorf("the memory of a guest that was killed: %v, want it gone", err)
	}
}

// confined looks at the VMM's process from outside.
func confined(t *testing.T, v driver.VMM, spec driver.Spec) {
	t.Helper()
	proc := func(name string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", v.PID(), name))
		must(t, err)
		return string(b)
	}
	status := map[string]string{}
	for line := range strings.Lines(proc("status")) {
		k, val, _ := strings.Cut(line, ":")
		status[k] = strings.Join(strings.Fields(val), " ")
	}
	id := fmt.Sprint(spec.UID)
	for k, want := range map[string]string{"Uid": strings.Repeat(" "+id, 4)[1:], "Gid": strings.Repeat(" "+id, 4)[1:],
		"Groups": "", "CapEff": "0000000000000000", "CapPrm": "0000000000000000", "Seccomp": "2"} {
		if status[k] != want {
			t.Errorf("the VMM's %s is %q, want %q", k, status[k], want)
		}
	}
	if !strings.Contains(proc("limits"), "Max core file size        0 ") {
		t.Error("the VMM may dump core")
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil && !strings.Contains(proc("cgroup"), spec.Cgroup) {
		t.Errorf("the VMM is in %q", proc("cgroup"))
	}
	ours := openFiles(t, os.Getpid())
	for _, to := range openFiles(t, v.PID()) {
		given := slices.ContainsFunc([]string{spec.Dir, spec.RunDir, spec.Kernel, spec.Initrd, "/dev/null", "/dev/zero", "/dev/net/tun"},
			func(p string) bool { return strings.HasPrefix(to, p) })
		// It makes sockets, pipes and event files of its own.
		if own := !strings.HasPrefix(to, "/") && !slices.Contains(ours, to); !given && !own && !strings.HasPrefix(to, "anon_inode:") {
			t.Errorf("the VMM holds %s", to)
		}
	}
}

func openFiles(t *testing.T, pid int) (targets []string) {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); err == nil {
			targets = append(targets, to)
		}
	}
	return targets
}

func hash(t *testing.T, path string) [32]byte {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	must(t, err)
	return [32]byte(sum.Sum(nil))
}

// Until Resume a restore changes nothing of the snapshot; the guest that then goes
// on is the one that slept; asleep it holds less than all of its memory.
func TestSnapshotIsIntactUntilResume(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-0000e000")
	v := start(t, d, spec)
	ping(t, v)
	if _, err := os.Stat(spec.Memory); !os.IsNotExist(err) {
		t.Errorf("the memory of a guest that runs is on the disk: %v", err)
	}
	boot := run(t, v, "cat", "/proc/sys/kernel/random/boot_id")
	snap := drivertest.Snapshot(t, spec)
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), snap))
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	asleep := allocated(t, drivertest.SnapshotFiles(t, snap)...)
	if asleep > int64(spec.MemMiB)<<20*3/4 {
		t.Errorf("a sleeping guest's memory holds %d MiB on disk", asleep>>20)
	}
	is := hashes(t, snap)
	for range 2 {
		v, err := d.Restore(t.Context(), spec, snap)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if c, err := v.Dial(ctx, 52); err == nil {
			t.Error("a guest that was not resumed took a stream")
			c.Close()
		}
		cancel()
		must(t, v.Kill(t.Context()))
		must(t, v.Close())
		if !maps.Equal(hashes(t, snap), is) {
			t.Fatal("a restore that was given up changed the snapshot")
		}
		if now := allocated(t, drivertest.SnapshotFiles(t, snap)...); now > asleep {
			t.Errorf("a restore that was given up holds %d MiB, before it %d", now>>20, asleep>>20)
		}
	}
	v, err := d.Restore(t.Context(), spec, snap)
	must(t, err)
	must(t, v.Resume(t.Context()))
	if got := run(t, v, "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("boot id %q, want %q", got, boot)
	}
	must(t, v.Close())
}

// One agent at a time holds a VMM; the second is told so and harms nothing.
func TestTwoDriversRecoverTheSame(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-0000f000")
	v := start(t, h.driver(t), spec)
	ping(t, v)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := h.driver(t).Recover(ctx, spec); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("second holder: %v, want unavailable", err)
	}
	ping(t, v)
	must(t, v.Close())
	// Between two agents somebody writes garbage to the guest's channel and console.
	for _, name := range []string{"chan.sock", "con.sock", "qmp.sock"} {
		c, err := net.Dial("unix", filepath.Join(spec.RunDir, name))
		must(t, err)
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write([]byte(strings.Repeat("\xc5\x01O1{\"execute\": garbage\n", 2000)))
		c.Close()
	}
	// The image is not needed to take up what runs: it may be lost.
	spec.Kernel, spec.Initrd, spec.Cmdline, spec.Disks = "", "", "", nil
	v, err := h.driver(t).Recover(t.Context(), spec)
	must(t, err)
	defer v.Close()
	ping(t, v)
	if err := v.Pause(t.Context()); err != nil {
		t.Error(err)
	}
}

// A guest that floods its console is slowed down: the log is bounded, the guest
// and the VMM answer.
func TestConsoleFlood(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-00010000")
	v := start(t, h.driver(t), spec)
	defer v.Close()
	ping(t, v)
	ctx, cancel := context.WithCancel(t.Context())
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		tryRun(ctx, v, "dd", "if=/dev/zero", "of=/dev/ttyS0", "bs=64k", "count=64")
	}()
	testenv.Eventually(t, patience, func() error {
		if _, err := os.Stat(spec.Console + ".1"); err != nil {
			return fmt.Errorf("the log did not turn over: %w", err)
		}
		return nil
	})
	ping(t, v)
	must(t, v.Pause(t.Context()))
	must(t, v.Resume(t.Context()))
	for _, f := range []string{spec.Console, spec.Console + ".1"} {
		if st, err := os.Stat(f); err == nil && st.Size() > 1<<20 {
			t.Errorf("%s has %d bytes", f, st.Size())
		}
	}
	must(t, v.Kill(t.Context()))
	cancel()
	<-flooded
}

// A guest that panics ends its VMM, and the exit says that it was the guest.
func TestGuestPanics(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-00011000")
	v := start(t, h.driver(t), spec)
	defer v.Close()
	ping(t, v)
	tryRun(t.Context(), v, "sh", "-c", "echo c >/proc/sysrq-trigger")
	select {
	case <-v.Done():
	case <-time.After(patience):
		t.Fatal("the VMM goes on")
	}
	if e := v.Exit(); !e.Guest || e.Detail == "" || !strings.HasPrefix(e.Panic, "Kernel panic - not syncing") {
		t.Errorf("exit %+v, want the guest's own with a detail and the kernel's word", e)
	}
	if b, err := os.ReadFile(spec.Console); err != nil || !strings.Contains(string(b), "panic") {
		t.Errorf("the console log has no panic: %v", err)
	}
}

// The guest of the KVM probe gets to userspace, says so and ends.
func TestProbeGuest(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-00012000")
	spec.Initrd = filepath.Join(spec.Dir, "initrd")
	must(t, os.WriteFile(spec.Initrd, qemu.ProbeInitrd(), 0o644))
	v := start(t, h.driver(t), spec)
	defer v.Close()
	select {
	case <-v.Done():
	case <-time.After(patience):
		t.Fatal("the probe's guest does not end")
	}
	if b, err := os.ReadFile(spec.Console); err != nil || !strings.Contains(string(b), qemu.ProbeMark) {
		t.Errorf("console %.2000q, %v; want the probe's mark", b, err)
	}
	if !v.Exit().Guest {
		t.Errorf("exit %+v, want the guest's own", v.Exit())
	}
}

// A full disk is an error at Snapshot, after which the instance goes on. It keeps no guest
// from starting, and none from running.
func TestFullDisk(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00013000")
	small := filepath.Join(h.dir, "small")
	must(t, os.Mkdir(small, 0o700))
	size := func(kib int) {
		must(t, unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%dk", kib)))
	}
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=1024k"))
	t.Cleanup(func() { must(t, unix.Unmount(small, 0)) })
	spec.Memory = filepath.Join(small, "memory")
	v := start(t, d, spec)
	defer v.Close()
	ping(t, v)
	snap := drivertest.SnapshotIn(t, small, spec)
	must(t, v.Pause(t.Context()))
	if err := v.Snapshot(t.Context(), snap); err == nil {
		t.Error("snapshot succeeded on a full disk")
	} else if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "free") {
		t.Errorf("snapshot on a full disk: %v, want the cause and what to do", err)
	}
	if left := drivertest.SnapshotFiles(t, snap); len(left) > 0 {
		t.Errorf("a snapshot that failed left %v", left)
	}
	if paused, err := v.Paused(t.Context()); err != nil || !paused {
		t.Errorf("paused %v, %v after the snapshot that failed", paused, err)
	}
	must(t, v.Resume(t.Context()))
	ping(t, v)
	size(spec.MemMiB*1024 + 4096)
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), snap))
	must(t, v.Kill(t.Context()))
}
