package firecracker_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
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
	"mvm/internal/driver/firecracker"
	"mvm/internal/driver/firecracker/api"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
	"mvm/test/fakevmm"
)

// Each test here is of one thing that Firecracker does and that is easily overlooked.

func start(t *testing.T, d driver.Driver, spec driver.Spec) driver.VMM {
	t.Helper()
	v, err := d.Start(t.Context(), spec)
	must(t, err)
	t.Cleanup(func() { must(t, d.Destroy(context.Background(), spec)) })
	return v
}

func stateOf(spec driver.Spec) driver.Snapshot {
	return driver.Snapshot{State: filepath.Join(spec.Dir, "state")}
}

func sleep(t *testing.T, v driver.VMM, spec driver.Spec) {
	t.Helper()
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), stateOf(spec)))
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

func wake(t *testing.T, d driver.Driver, spec driver.Spec) driver.VMM {
	t.Helper()
	v, err := d.Restore(t.Context(), spec, stateOf(spec))
	must(t, err)
	must(t, v.Resume(t.Context()))
	return v
}

// text is more than a page, so that some of it is easily lost.
func text(words string) string { return strings.Repeat(words+" ", 40_000/len(words)) }

func remember(t *testing.T, v driver.VMM, file, words string) {
	t.Helper()
	run(t, v, text(words), "tee", file)
}

func remembers(t *testing.T, v driver.VMM, file, words string) {
	t.Helper()
	if got := run(t, v, "", "cat", file); got != text(words) {
		t.Errorf("%s has %.40q… (%d bytes), want %.40q…", file, got, len(got), text(words))
	}
}

// bodies returns the bodies of the requests of a route, in order.
func bodies[T any](t *testing.T, h *host, route string) (out []T) {
	t.Helper()
	for _, r := range h.requests(t) {
		if r.Route == route {
			var v T
			must(t, json.Unmarshal([]byte(r.Body), &v))
			out = append(out, v)
		}
	}
	return out
}

func TestVersions(t *testing.T) {
	for version, ok := range map[string]bool{"1.14.4": false, "1.15.0": true, "1.15.1": true, "1.16.0": false, "1.16.1": false, "1.16.2": true,
		"1.16.10": true, "1.17.0": true, "1.20.3": true, "2.0.0": false, "0.25.2": false, "1.16.0-dev": false, "none": false, "": false} {
		err := api.CheckVersion(version)
		if (err == nil) != ok {
			t.Errorf("version %q: %v, want it to be taken: %v", version, err, ok)
		}
		if err != nil && !strings.Contains(err.Error(), version) {
			t.Errorf("version %q: %v does not name it", version, err)
		}
	}
	h := newHost(t)
	h.knobs(t, fakevmm.Knobs{Version: "1.16.1"})
	d, err := firecracker.New(firecracker.Options{Binary: filepath.Join(h.bin, "firecracker"), StateDir: h.stateDir()})
	must(t, err)
	if _, err := d.Start(t.Context(), h.spec(t, "i-d0000001")); err == nil || !strings.Contains(err.Error(), "pause and resume") {
		t.Errorf("start with 1.16.1: %v, want the reason", err)
	}
	if _, err := d.Info(t.Context()); err == nil || !strings.Contains(err.Error(), "pause and resume") {
		t.Errorf("info of 1.16.1: %v, want the reason", err)
	}
}

// The self-test finds a vsock that does not outlive a pause or a restore, whatever the
// version is. What it found is kept for the binary.
func TestSelfTest(t *testing.T) {
	for name, c := range map[string]struct {
		knobs fakevmm.Knobs
		want  string
	}{
		"works":            {fakevmm.Knobs{}, ""},
		"guest to host":    {fakevmm.Knobs{HangGuestToHost: true}, "after a restore, its guest does not reach its host"},
		"host to guest":    {fakevmm.Knobs{HangHostToGuest: true}, "after a pause and resume, its guest does not answer its host"},
		"no vsock at all":  {fakevmm.Knobs{Fail: map[string]string{"PUT /vsock": "Vsock config error: none here"}}, "Vsock config error: none here"},
		"no load possible": {fakevmm.Knobs{Fail: map[string]string{"PUT /snapshot/load": "Load snapshot error: of no use"}}, "Load snapshot error: of no use"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.untested = true
			h.knobs(t, c.knobs)
			d := h.driver(t)
			firecracker.AnswerWithin(d, 500*time.Millisecond)
			spec := h.spec(t, "i-d0000001")
			v, err := d.Start(t.Context(), spec)
			if c.want == "" {
				must(t, err)
				must(t, v.Kill(t.Context()))
				must(t, v.Close())
			} else if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("start: %v, want %q", err, c.want)
			}
			asked := len(h.requests(t))
			h.knobs(t, fakevmm.Knobs{}) // another driver believes what was found
			v, err = h.driver(t).Start(t.Context(), spec)
			if (err == nil) != (c.want == "") {
				t.Errorf("start with what was found: %v", err)
			}
			if err == nil {
				must(t, v.Kill(t.Context()))
				must(t, v.Close())
			} else if more := h.requests(t)[asked:]; len(more) > 0 {
				t.Errorf("it was tested again: %v", more)
			}
			info, err := h.driver(t).Info(t.Context())
			must(t, err)
			if !strings.Contains(info.Why, firecracker.NeverRun) || !strings.Contains(info.Why, c.want) {
				t.Errorf("info says %q", info.Why)
			}
			// Another binary is tested anew.
			f, err := os.OpenFile(filepath.Join(h.bin, "firecracker"), os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = f.WriteString("x")
			must(t, errors.Join(err, f.Close()))
			v, err = h.driver(t).Start(t.Context(), spec)
			must(t, err)
			must(t, v.Kill(t.Context()))
			must(t, v.Close())
			if left, _ := filepath.Glob(filepath.Join(h.stateDir(), "probe*")); len(left) > 0 {
				t.Errorf("the self-test left %v", left)
			}
		})
	}
}

// Without an image there is nothing to test with, and that is not held against Firecracker.
func TestNoImageToTestWith(t *testing.T) {
	h := newHost(t)
	d, err := firecracker.New(firecracker.Options{Binary: filepath.Join(h.bin, "firecracker"), StateDir: h.stateDir(), KVM: os.DevNull})
	must(t, err)
	if _, err := d.Start(t.Context(), h.spec(t, "i-d0000001")); !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "no image") {
		t.Errorf("start: %v", err)
	}
	if _, err := os.Stat(filepath.Join(h.stateDir(), "firecracker-host.json")); err == nil {
		t.Error("a verdict was kept")
	}
}

// Firecracker sets no serials: the guest is told the order of its disks. It ignores flushes
// unless told not to, and adds root= for a root device.
func TestDisks(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-d0000001")
	for i, name := range []string{"root", "data"} {
		path := filepath.Join(spec.Dir, name)
		must(t, os.WriteFile(path, []byte("disk"), 0o600))
		spec.Disks = append(spec.Disks, driver.Disk{Path: path, Serial: "mvm-" + name, ReadOnly: i == 0})
	}
	must(t, os.Chmod(spec.Disks[0].Path, 0o644)) // as images are
	v := start(t, h.driver(t), spec)
	defer v.Close()
	if got := run(t, v, "", "cat", "/proc/cmdline"); !slices.Contains(strings.Fields(got), "mvm.disks=mvm-root,mvm-data") {
		t.Errorf("the kernel's arguments are %q", got)
	}
	drives := bodies[api.Drive](t, h, "PUT /drives/{drive_id}")
	if len(drives) != 2 || !drives[0].ReadOnly || drives[1].ReadOnly {
		t.Errorf("drives %+v", drives)
	}
	for _, d := range drives {
		if d.Root || d.Cache != api.Writeback {
			t.Errorf("drive %+v: want no root device, and flushes that count", d)
		}
	}
	must(t, v.Kill(t.Context()))
	if st, err := os.Stat(spec.Disks[1].Path); err != nil || st.Mode().Perm()&0o007 != 0 {
		t.Errorf("the data disk: %v, mode %v", err, st.Mode())
	}
}

// makeTAP makes a persistent TAP that a user owns.
func makeTAP(t *testing.T, name string, owner int) {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	must(t, err)
	ifr, err := unix.NewIfreq(name)
	must(t, err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	must(t, unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr))
	must(t, unix.IoctlSetInt(int(f.Fd()), unix.TUNSETOWNER, owner))
	must(t, unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1))
	must(t, f.Close())
	t.Cleanup(func() {
		f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		must(t, unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr))
		must(t, unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 0))
	})
}

// TAPs are opened by name, by the VMM, without rights; a restore may give it another.
func TestTAPByName(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-d0000001")
	info, err := d.Info(t.Context())
	must(t, err)
	if !info.Features.TAPByName {
		t.Error("the driver does not say that it takes TAPs by name")
	}
	must(t, unix.Mknod(filepath.Join(h.bin, fakevmm.TUNFile), unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))))
	must(t, os.Chmod(filepath.Join(h.bin, fakevmm.TUNFile), 0o666))
	makeTAP(t, "tnfctest0", uid)
	makeTAP(t, "tnfctest1", uid)
	makeTAP(t, "tnfctest2", uid+1)
	spec.TAPName, spec.MAC = "tnfctest0", "02:fc:00:07:00:09"
	v := start(t, d, spec)
	if _, err := v.Stats(t.Context()); err != nil {
		t.Error(err)
	}
	sleep(t, v, spec)
	spec.TAPName = "tnfctest1"
	must(t, wake(t, d, spec).Kill(t.Context()))
	loads := bodies[api.SnapshotLoad](t, h, "PUT /snapshot/load")
	if len(loads) != 1 || len(loads[0].Networks) != 1 || loads[0].Networks[0].TAP != "tnfctest1" {
		t.Errorf("loads %+v, want the new TAP", loads)
	}
	spec.TAPName = "tnfctest2"
	if _, err := d.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "tap") {
		t.Errorf("start with another user's TAP: %v", err)
	}
	must(t, os.Chmod(filepath.Join(h.bin, fakevmm.TUNFile), 0o600))
	spec.TAPName = "tnfctest0"
	if _, err := d.Start(t.Context(), spec); !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), fakevmm.TUNFile) {
		t.Errorf("start on a host where users may not open TAPs: %v", err)
	}
	spec.TAPName, spec.TAP = "", os.Stdin
	if _, err := d.Start(t.Context(), spec); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("start with an open TAP: %v, want invalid", err)
	}
}

// Before 1.17 only uncompressed kernels boot.
func TestCompressedKernel(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-d0000001")
	spec.Kernel = filepath.Join(spec.Dir, "bzImage")
	must(t, os.WriteFile(spec.Kernel, bytes.Repeat([]byte("MZ"), 512), 0o644))
	_, err := h.driver(t).Start(t.Context(), spec)
	if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "vmlinux") {
		t.Errorf("start: %v, want what kernel it takes", err)
	}
	if len(h.requests(t)) > 0 {
		t.Error("a VMM was started for it")
	}
}

// The memory file of a guest that was restored must not change for as long as it lives, also
// while a snapshot of it is taken.
func TestMemoryStaysWhileItIsMapped(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-d0000001")
	v := start(t, d, spec)
	remember(t, v, "/a", "first")
	sleep(t, v, spec)
	v = wake(t, d, spec)
	before := hash(t, spec.Memory)
	remember(t, v, "/b", "second")
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), stateOf(spec)))
	if hash(t, spec.Memory) != before {
		t.Error("a snapshot changed the file that its guest's memory is mapped from")
	}
	must(t, v.Resume(t.Context()))
	remembers(t, v, "/a", "first")
	remembers(t, v, "/b", "second")
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	if _, err := os.Stat(spec.Memory); !os.IsNotExist(err) {
		t.Errorf("the memory of a guest that ran on: %v, want it gone", err)
	}
}

func hash(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return sha256.Sum256(b)
}

// The first snapshot after a boot is of all memory, the next of what changed; Firecracker
// counts from its last snapshot on, so after a sleep that was cancelled it is of all again,
// also where another agent takes it. And it counts nothing unless told so at each load.
func TestDiffs(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-d0000001")
	v := start(t, d, spec)
	remember(t, v, "/a", "first")
	sleep(t, v, spec)
	v = wake(t, d, spec)
	remember(t, v, "/b", "second")
	sleep(t, v, spec)
	v = wake(t, d, spec)
	remembers(t, v, "/b", "second")
	remember(t, v, "/c", "third")
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), stateOf(spec)))
	must(t, v.Resume(t.Context())) // cancelled
	for _, path := range []string{stateOf(spec).State, stateOf(spec).Pages(), stateOf(spec).Whole()} {
		must(t, errors.Join(ignore(os.Remove(path))))
	}
	remember(t, v, "/d", "fourth")
	must(t, v.Close())
	v, err := h.driver(t).Recover(t.Context(), spec)
	must(t, err)
	sleep(t, v, spec)
	v = wake(t, d, spec)
	for file, words := range map[string]string{"/a": "first", "/b": "second", "/c": "third", "/d": "fourth"} {
		remembers(t, v, file, words)
	}
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	var types []string
	for _, c := range bodies[api.SnapshotCreate](t, h, "PUT /snapshot/create") {
		types = append(types, c.Type)
	}
	if want := []string{api.Full, api.Diff, api.Diff, api.Full}; !slices.Equal(types, want) {
		t.Errorf("snapshots %v, want %v", types, want)
	}
	for _, l := range bodies[api.SnapshotLoad](t, h, "PUT /snapshot/load") {
		if !l.TrackDirtyPages || l.Resume {
			t.Errorf("load %+v: want that changes are counted, and vCPUs that do not run", l)
		}
	}
}

func ignore(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// A wake takes what changed into the memory, where the agent that should have died first.
func TestDiffOfAnAgentThatDied(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-d0000001")
	v := start(t, d, spec)
	remember(t, v, "/a", "first")
	sleep(t, v, spec)
	v = wake(t, d, spec)
	remember(t, v, "/b", "second")
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), stateOf(spec)))
	must(t, v.Close()) // the agent is gone
	must(t, h.driver(t).Destroy(t.Context(), spec))
	if _, err := os.Stat(stateOf(spec).Pages()); err != nil {
		t.Fatalf("there is no diff to take in: %v", err)
	}
	v = wake(t, d, spec)
	remembers(t, v, "/a", "first")
	remembers(t, v, "/b", "second")
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

// A page that became zeros is zeros after a merge, and one that was not written stays.
func TestMergeOfZeros(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	const page, pages = 4096, 600 // more than a chunk
	base, raw, diff, whole := file("base"), file("raw"), file("diff"), file("whole")
	want := bytes.Repeat([]byte{7}, page*pages)
	_, err := base.WriteAt(want, 0)
	must(t, err)
	must(t, raw.Truncate(page*pages))
	for _, n := range []int{0, 3, 4, 256, 257, 511, 599} {
		b := make([]byte, page)
		if n%2 == 1 {
			b[page-1] = byte(n)
		}
		_, err := raw.WriteAt(b, int64(n*page))
		must(t, err)
		copy(want[n*page:], b)
	}
	must(t, firecracker.CopyData(diff, raw, page*pages))
	must(t, firecracker.Overlay(base, diff))
	got, err := os.ReadFile(base.Name())
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the merged memory is not base with the changed pages")
	}
	must(t, firecracker.CopyWhole(whole, base, page*pages))
	got, err = os.ReadFile(whole.Name())
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the copy differs")
	}
}

// A load that fails ends the process; the driver says which it was, and a later one works.
func TestFailedLoad(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-d0000001")
	v := start(t, d, spec)
	remember(t, v, "/a", "first")
	sleep(t, v, spec)
	for words, bad := range map[string]bool{
		"Load snapshot error: Failed to restore from snapshot: Failed to get snapshot state from file: Failed to load snapshot state from file: CRC64 validation failed": true,
		"Load snapshot error: Failed to restore from snapshot: Failed to build microVM from snapshot: Cannot allocate memory (os error 12)":                              false,
		"Load snapshot error: Failed to restore from snapshot: Failed to build microVM from snapshot: Open tap device failed: Operation not permitted":                   false,
	} {
		h.knobs(t, fakevmm.Knobs{Fail: map[string]string{"PUT /snapshot/load": words}})
		_, err := d.Restore(t.Context(), spec, stateOf(spec))
		if driver.BadSnapshot(err) != bad || !strings.Contains(fmt.Sprint(err), words[len(words)-20:]) {
			t.Errorf("%s: %v, about the snapshot: %v, want %v", words, err, driver.BadSnapshot(err), bad)
		}
	}
	h.knobs(t, fakevmm.Knobs{})
	v = wake(t, d, spec)
	remembers(t, v, "/a", "first")
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

// Log, metrics and console are of the process: after a load they are set again.
func TestConsoleAndMetricsAfterAWake(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-d0000001")
	v := start(t, d, spec)
	said := func(v driver.VMM, words string) {
		t.Helper()
		run(t, v, "", "say", words)
		testenv.Eventually(t, patience, func() error {
			b, err := os.ReadFile(spec.Console)
			if err == nil && !strings.Contains(string(b), words) {
				err = fmt.Errorf("the console log is %q", b)
			}
			return err
		})
		if st, err := v.Stats(t.Context()); err != nil || st.DiskRead == 0 || st.DiskWrit == 0 {
			t.Errorf("stats after %q: %+v, %v", words, st, err)
		}
	}
	said(v, "after the boot")
	must(t, v.Close())
	v, err := h.driver(t).Recover(t.Context(), spec)
	must(t, err)
	said(v, "after an agent's restart")
	sleep(t, v, spec)
	v = wake(t, d, spec)
	said(v, "after a wake")
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	for _, route := range []string{"PUT /logger", "PUT /metrics", "PUT /serial"} {
		if n := len(bodies[map[string]any](t, h, route)); n != 2 {
			t.Errorf("%s was asked %d times by two processes", route, n)
		}
	}
}

// Firecracker does not start where its sockets are there already.
func TestStaleSockets(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-d0000001")
	stale := func() {
		dir := filepath.Join(spec.RunDir, "vmm")
		must(t, os.MkdirAll(dir, 0o700))
		for _, name := range []string{"v.sock", "api.sock"} {
			ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name)})
			must(t, err)
			ln.SetUnlinkOnClose(false)
			must(t, ln.Close())
		}
	}
	stale()
	v := start(t, d, spec)
	sleep(t, v, spec)
	stale()
	must(t, wake(t, d, spec).Kill(t.Context()))
}

// A connection to a port on which nothing listens is closed without a line: while the guest
// boots, for its agent's port too.
func TestDialWhileItBoots(t *testing.T) {
	h := newHost(t)
	h.knobs(t, fakevmm.Knobs{ListenAfter: 300 * time.Millisecond})
	v := start(t, h.driver(t), h.spec(t, "i-d0000001"))
	defer v.Close()
	if got := run(t, v, "", "echo", "it answers"); got != "it answers\n" {
		t.Errorf("the guest says %q", got)
	}
	if _, err := v.Dial(t.Context(), 4711); !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "nothing listens") {
		t.Errorf("dial of a port without a listener: %v", err)
	}
	if ok, err := callHost(t, v); ok || err == nil {
		t.Errorf("the guest reached a host that does not listen: %v", err)
	}
	must(t, v.Kill(t.Context()))
}

// Firecracker has no power button, and ends with 0 when its guest resets. After an agent's
// restart the code is not known.
func TestHowItEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(t *testing.T, v driver.VMM)
		again bool
		want  driver.Exit
	}{
		"keys":            {func(t *testing.T, v driver.VMM) { must(t, v.Powerdown(t.Context())) }, false, driver.Exit{Guest: true, Detail: "guest-reset"}},
		"keys, recovered": {func(t *testing.T, v driver.VMM) { must(t, v.Powerdown(t.Context())) }, true, driver.Exit{Guest: true, Detail: "guest-reset"}},
		"panic": {func(t *testing.T, v driver.VMM) { _, _ = tryRun(t, v, "", "panic") }, false,
			driver.Exit{Guest: true, Detail: "guest-reset", Panic: "Kernel panic - not syncing: as told"}},
		"crash": {func(t *testing.T, v driver.VMM) { _, _ = tryRun(t, v, "", "abort") }, false,
			driver.Exit{Code: 148, Detail: "exited with code 148: thread 'fc_vcpu 0' panicked: as told"}},
		"crash, recovered": {func(t *testing.T, v driver.VMM) { _, _ = tryRun(t, v, "", "abort") }, true,
			driver.Exit{Detail: "VMM exited; status unknown: thread 'fc_vcpu 0' panicked: as told"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			spec := h.spec(t, "i-d0000001")
			v := start(t, h.driver(t), spec)
			run(t, v, "", "say", "hello")
			if c.again {
				must(t, v.Close())
				var err error
				v, err = h.driver(t).Recover(t.Context(), spec)
				must(t, err)
			}
			defer v.Close()
			c.end(t, v)
			select {
			case <-v.Done():
			case <-time.After(patience):
				t.Fatal("the VMM goes on")
			}
			got := v.Exit()
			if c.again {
				got.Code = c.want.Code // this test is its parent, and no agent's restart
				got.Detail = strings.Replace(got.Detail, "exited with code 148", "VMM exited; status unknown", 1)
			}
			if got != c.want {
				t.Errorf("exit %+v, want %+v", got, c.want)
			}
		})
	}
}

// Firecracker takes 1 vCPU or an even number.
func TestOddVCPUs(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-d0000001")
	spec.VCPUs = 3
	if _, err := h.driver(t).Start(t.Context(), spec); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "even") {
		t.Errorf("start with 3 vCPUs: %v", err)
	}
}

// A VMM of another driver is left alone.
func TestVMMOfAnotherDriver(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-d0000001")
	v := start(t, d, spec)
	must(t, v.Close())
	path := filepath.Join(spec.RunDir, "vmm.json")
	b, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, bytes.Replace(b, []byte(`"driver":"firecracker"`), []byte(`"driver":"qemu"`), 1), 0o600))
	if _, err := h.driver(t).Recover(t.Context(), spec); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), `"qemu"`) {
		t.Errorf("recover: %v, want which driver it is of", err)
	}
	must(t, os.WriteFile(path, b, 0o600))
	v, err = h.driver(t).Recover(t.Context(), spec)
	must(t, err)
	defer v.Close()
	c, err := v.Dial(t.Context(), guestproto.GuestPort)
	must(t, err)
	must(t, c.Close())
	must(t, v.Kill(t.Context()))
}

// A VMM can't replace what the agent made in the folder that they share, and no other user
// gets at anything.
func TestSharedFolder(t *testing.T) {
	h := newHost(t)
	spec := h.spec(t, "i-d0000001")
	v := start(t, h.driver(t), spec)
	defer v.Close()
	dir := filepath.Join(spec.RunDir, "vmm")
	st, err := os.Stat(dir)
	must(t, err)
	if st.Mode().Perm() != 0o770 || st.Mode()&os.ModeSticky == 0 {
		t.Errorf("the shared folder has mode %v", st.Mode())
	}
	for _, name := range []string{"console", "metrics", "v.sock_53"} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &st))
		if int(st.Uid) != os.Geteuid() || int(st.Gid) != spec.GID || st.Mode&0o007 != 0 {
			t.Errorf("%s is of user %d, group %d, mode %o", name, st.Uid, st.Gid, st.Mode)
		}
	}
	must(t, v.Kill(t.Context()))
}
