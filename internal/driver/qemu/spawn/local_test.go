package spawn_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
	"mvm/internal/testenv"

	"golang.org/x/sys/unix"
)

const (
	user = 64_700 // of an instance
	mark = "00000000000000aa"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a Local whose QEMU is another program, so that anything can stand for a VMM.
func host(t *testing.T, program string) (*spawn.Local, vmproc.Bounds) {
	t.Helper()
	testenv.NeedRoot(t)
	b := vmproc.Bounds{RunRoot: "/run/mvm-spawn-test/i", ProbeRoot: "/run/mvm-spawn-test/q", FirstUID: user, LastUID: user + 9}
	h, err := spawn.New(spawn.Options{Binary: program, Bounds: b, Mark: func() (string, error) { return mark, nil }})
	must(t, err)
	return h, b
}

// shell starts a shell that waits, with arguments behind its name, as the user, and in the
// cgroup where there is one.
func shell(t *testing.T, uid int, cgroup string, args ...string) vmproc.Hint {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh")
	cmd.Args = append([]string{"qemu"}, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	in, err := cmd.StdinPipe() // which it reads to the end
	must(t, err)
	must(t, cmd.Start())
	var dirs []string
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = sys.LeaveCgroup(dirs)
	})
	testenv.Eventually(t, 20*time.Second, func() error { // Start returns before the kernel has put them there
		if got := sys.Cmdline(cmd.Process.Pid); !slices.Equal(got, cmd.Args) {
			return fmt.Errorf("its arguments are %q", got)
		}
		return nil
	})
	p, err := sys.OpenProcess(cmd.Process.Pid)
	must(t, err)
	defer p.Close()
	if cgroup != "" {
		if dirs, err = sys.EnterCgroup(cgroup, p.PID, sys.CgroupLimits{}); len(dirs) == 0 {
			t.Fatal(err)
		}
	}
	return vmproc.Hint{PID: p.PID, Start: p.Start}
}

// A VMM is found by what was noted of it, by its cgroup and by its name; a process of
// another user, another mark or with the name elsewhere is none.
func TestFindVMM(t *testing.T) {
	h, b := host(t, "/bin/sh")
	name := func(id string) vmproc.Name { return vmproc.Name{ID: id, RunDir: filepath.Join(b.RunRoot, id)} }
	for _, c := range []struct {
		what   string
		id     string
		uid    int
		cgroup string // suffix of its cgroup's name
		args   func(n vmproc.Name) []string
		hint   vmproc.Hint
		found  bool
		listed bool
	}{
		{what: "its name", id: "i-00000011", uid: user, args: marked(mark), found: true, listed: true},
		{what: "its name, with the last user", id: "i-00000012", uid: user + 9, args: marked(mark), found: true, listed: true},
		{what: "its name, with its user known", id: "i-00000013", uid: user, args: marked(mark), hint: vmproc.Hint{UID: user}, found: true, listed: true},
		{what: "its name, of an older mvm", id: "i-00000014", uid: user, args: marked(""), found: true},
		{what: "another owner's", id: "i-00000015", uid: user, args: marked("00000000000000bb")},
		{what: "a user below", id: "i-00000016", uid: user - 1, args: marked(mark), listed: true},
		{what: "a user above", id: "i-00000017", uid: user + 10, args: marked(mark), listed: true},
		{what: "another instance's user", id: "i-00000018", uid: user + 1, args: marked(mark), hint: vmproc.Hint{UID: user}, listed: true},
		{what: "a name that is no argument of QEMU's", id: "i-00000019", uid: user, args: func(n vmproc.Name) []string {
			return []string{"-s", "--", "-name", n.String()}
		}},
		{what: "a name without the flag", id: "i-0000001a", uid: user, args: func(n vmproc.Name) []string { return []string{"-s", n.String()} }},
		{what: "hidden, with its user", id: "i-0000001b", uid: user + 2, args: func(vmproc.Name) []string { return []string{"-s"} }, hint: vmproc.Hint{UID: user + 2}, found: true},
		{what: "hidden, with no user known", id: "i-0000001c", uid: user + 3, args: func(vmproc.Name) []string { return []string{"-s"} }},
		{what: "hidden, in its cgroup", id: "i-0000001d", uid: user + 4, cgroup: "-" + mark, args: func(vmproc.Name) []string { return []string{"-s"} }, found: true},
		{what: "hidden, in the cgroup of an older mvm", id: "i-0000001e", uid: user + 5, cgroup: "old", args: func(vmproc.Name) []string { return []string{"-s"} }, found: true},
		{what: "its name, in another's cgroup", id: "i-0000001f", uid: user + 6, cgroup: "-00000000000000bb", args: marked(mark), listed: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			n := name(c.id)
			cgroup := ""
			if c.cgroup != "" {
				cgroup = "mvm-" + c.id + strings.TrimPrefix(c.cgroup, "old")
			}
			runs := shell(t, c.uid, cgroup, c.args(n)...)
			p, err := h.Find(t.Context(), n, c.hint)
			if c.found {
				must(t, err)
				defer p.Close()
				if pid, start := p.ID(); pid != runs.PID || start != runs.Start {
					t.Errorf("found %d, started %d, want %d, %d", pid, start, runs.PID, runs.Start)
				}
			} else if !errors.Is(err, sys.ErrNoProcess) {
				t.Errorf("found %v, %v", p, err)
			}
			names, err := h.List(t.Context(), b.RunRoot)
			if must(t, err); slices.Contains(names, n) != c.listed {
				t.Errorf("listed: %v, want %v", names, c.listed)
			}
		})
	}
}

func marked(mark string) func(n vmproc.Name) []string {
	return func(n vmproc.Name) []string {
		if mark == "" {
			return []string{"-s", "-name", n.String()}
		}
		return []string{"-s", "-name", "mvm:" + n.ID + ":" + mark + ":" + n.RunDir}
	}
}

// What was noted of a VMM counts where both its number and its start are right.
func TestFindVMMByWhatWasNoted(t *testing.T) {
	h, b := host(t, "/bin/sh")
	n := vmproc.Name{ID: "i-00000021", RunDir: filepath.Join(b.RunRoot, "i-00000021")}
	runs := shell(t, user, "", marked(mark)(n)...)
	for what, hint := range map[string]vmproc.Hint{"right": runs, "another start": {PID: runs.PID, Start: runs.Start + 1},
		"another number": {PID: os.Getpid(), Start: runs.Start}, "none": {}, "a number that is gone": {PID: 1 << 30, Start: 1}} {
		p, err := h.Find(t.Context(), n, hint)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if pid, start := p.ID(); pid != runs.PID || start != runs.Start {
			t.Errorf("%s: found %d, started %d, want %+v", what, pid, start, runs)
		}
		must(t, p.Close())
	}
	// Two processes of one name: the one that was noted.
	second := shell(t, user, "", marked(mark)(n)...)
	for _, hint := range []vmproc.Hint{runs, second} {
		p, err := h.Find(t.Context(), n, hint)
		must(t, err)
		if pid, _ := p.ID(); pid != hint.PID {
			t.Errorf("found %d, want %d", pid, hint.PID)
		}
		must(t, p.Close())
	}
	if names, err := h.List(t.Context(), b.RunRoot); err != nil || len(names) != 1 || names[0] != n {
		t.Errorf("listed %v, %v, want the name once", names, err)
	}
	for _, root := range []string{b.ProbeRoot, filepath.Dir(b.RunRoot), filepath.Join(b.RunRoot, "x")} {
		if names, err := h.List(t.Context(), root); err != nil || len(names) > 0 {
			t.Errorf("listed in %s: %v, %v", root, names, err)
		}
	}
}

// Killing a VMM ends what else is in its cgroup, and so does Leave, which then removes it;
// neither touches another's.
func TestEndOfAVMMsCgroup(t *testing.T) {
	h, b := host(t, "/bin/sh")
	n := vmproc.Name{ID: "i-00000031", RunDir: filepath.Join(b.RunRoot, "i-00000031")}
	cgroup := "mvm-" + n.ID + "-" + mark
	alive := func(p vmproc.Hint) bool {
		held, err := sys.OpenProcess(p.PID)
		if err != nil {
			return false
		}
		defer held.Close()
		st, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
		return err == nil && !strings.Contains(string(st), ") Z ")
	}
	gone := func(p vmproc.Hint) {
		t.Helper()
		testenv.Eventually(t, 20e9, func() error {
			if alive(p) {
				return errors.New("it runs")
			}
			return nil
		})
	}
	dirs, err := sys.CgroupDirs(cgroup)
	must(t, err)
	other := shell(t, user+1, "mvm-i-00000032-"+mark, "-s")
	first, child := shell(t, user, cgroup, marked(mark)(n)...), shell(t, user, cgroup, "-s")
	p, err := h.Find(t.Context(), n, first)
	must(t, err)
	must(t, p.Kill(t.Context()))
	gone(first)
	gone(child)
	must(t, p.Close())
	left := shell(t, user, cgroup, "-s")
	foreign, err := sys.CgroupDirs("mvm-i-00000032-" + mark)
	must(t, err)
	must(t, h.Leave(t.Context(), n, "", append(foreign, dirs...)))
	gone(left)
	for _, d := range dirs {
		if _, err := os.Stat(d); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", d, err)
		}
	}
	if !alive(other) {
		t.Error("a VMM of another name was ended")
	}
	must(t, h.Leave(t.Context(), n, "", nil))
}

// Where a host does not know its own mark it does nothing: it could take another owner's
// VMM for its own.
func TestNoMark(t *testing.T) {
	testenv.NeedRoot(t)
	no := errors.New("the mark can't be read")
	h, err := spawn.New(spawn.Options{Binary: "/bin/sh", Mark: func() (string, error) { return "", no }})
	must(t, err)
	w := newFiles(t)
	runs := shell(t, user, "", marked("")(w.Name)...)
	if p, _, err := h.Launch(t.Context(), w.Launch); !errors.Is(err, no) || p != nil {
		t.Errorf("launch: %v, %v", p, err)
	}
	if p, err := h.Find(t.Context(), w.Name, runs); !errors.Is(err, no) || p != nil {
		t.Errorf("find: %v, %v", p, err)
	}
	if names, err := h.List(t.Context(), filepath.Dir(w.RunDir)); !errors.Is(err, no) || names != nil {
		t.Errorf("list: %v, %v", names, err)
	}
	if err := h.Leave(t.Context(), w.Name, "", nil); !errors.Is(err, no) {
		t.Errorf("leave: %v", err)
	}
	if st, err := w.Files.Memory.Stat(); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the memory was given away: %v", err)
	}
}

// A QEMU that is gone is named as what is missing, and a launch that is called off starts
// nothing.
func TestQEMUIsGone(t *testing.T) {
	testenv.NeedRoot(t)
	if _, err := spawn.New(spawn.Options{Binary: "/nonexistent/qemu"}); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("a QEMU that never was: %v", err)
	}
	self, err := os.ReadFile("/bin/true")
	must(t, err)
	path := filepath.Join(testenv.Dir(t), "qemu")
	must(t, os.WriteFile(path, self, 0o755))
	h, err := spawn.New(spawn.Options{Binary: path})
	must(t, err)
	must(t, os.Remove(path))
	if p, _, err := h.Launch(t.Context(), newFiles(t).Launch); !mvm.IsKind(err, mvm.KindUnavailable) || p != nil {
		t.Errorf("a QEMU that is gone: %v, %v", p, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, _, err := h.Launch(ctx, newFiles(t).Launch); !mvm.IsKind(err, mvm.KindCanceled) || p != nil {
		t.Errorf("called off: %v, %v", p, err)
	}
}

// files are a Launch with all that it needs.
type files struct {
	spawn.Launch
	t    testing.TB
	dir  string
	said *os.File // the other end of its log
}

func newFiles(t testing.TB) *files {
	t.Helper()
	w := &files{t: t, dir: testenv.Dir(t)}
	w.Launch = spawn.Launch{Name: vmproc.Name{ID: "i-00000041", RunDir: w.dir}, UID: user, GID: user, Accel: spawn.AccelTCG, VCPUs: 1, MemMiB: 16,
		Restore: true, Disks: []spawn.Disk{{Serial: "root", ReadOnly: true}, {Serial: "data"}}}
	w.Files = spawn.Files{Lock: w.file("lock", os.O_RDWR), Log: w.log(), Memory: w.file("memory", os.O_RDWR),
		QMP: w.socket("qmp"), Console: w.socket("con"), Channel: w.socket("chan"), Disks: []*os.File{w.file("root", os.O_RDONLY), w.file("data", os.O_RDWR)}}
	must(t, w.Files.Memory.Truncate(16<<20))
	return w
}

// log is the VMM's end of a log.
func (w *files) log() *os.File {
	w.t.Helper()
	must(w.t, sys.InFolder(w.dir, func(d *sys.Folder) (err error) {
		w.said, err = d.MakePipe("log", -1)
		return err
	}))
	vmm, err := sys.PipeEnd(w.said, 16<<10)
	must(w.t, err)
	w.t.Cleanup(func() { _ = w.said.Close(); _ = vmm.Close() })
	return vmm
}

// words are what the VMM has said.
func (w *files) words() []byte {
	b := make([]byte, 16<<10)
	n, _ := w.said.Read(b)
	return b[:n]
}

// blocking is a pipe that a VMM would wait for.
func (w *files) blocking() *os.File {
	w.t.Helper()
	path := filepath.Join(w.dir, "blocks")
	must(w.t, unix.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(w.t, err)
	must(w.t, unix.SetNonblock(int(f.Fd()), false))
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (w *files) file(name string, mode int) *os.File {
	w.t.Helper()
	f, err := os.OpenFile(filepath.Join(w.dir, name), mode|os.O_CREATE, 0o600)
	must(w.t, err)
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (w *files) socket(name string) *os.File {
	w.t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(w.dir, name), Net: "unix"})
	must(w.t, err)
	ln.SetUnlinkOnClose(false)
	defer ln.Close()
	f, err := ln.File()
	must(w.t, err)
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

// A VMM whose files are not what they have to be is not started, and the error says which
// file is meant.
func TestFilesOfALaunch(t *testing.T) {
	testenv.NeedRoot(t)
	h, err := spawn.New(spawn.Options{Binary: "/bin/true"})
	must(t, err)
	shut := func(w *files) *os.File {
		f := w.file("shut", os.O_RDWR)
		must(w.t, f.Close())
		return f
	}
	for want, spoil := range map[string]func(w *files){
		"no lock":            func(w *files) { w.Files.Lock = nil },
		"no log":             func(w *files) { w.Files.Log = nil },
		"no memory":          func(w *files) { w.Files.Memory = nil },
		"no control socket":  func(w *files) { w.Files.QMP = nil },
		"no console socket":  func(w *files) { w.Files.Console = nil },
		"no channel socket":  func(w *files) { w.Files.Channel = nil },
		"no disk data":       func(w *files) { w.Files.Disks[1] = nil },
		"its lock is":        func(w *files) { w.Files.Lock = shut(w) },
		"its log is":         func(w *files) { w.Files.Log = shut(w) },
		"its log is no pipe": func(w *files) { w.Files.Log = w.file("grows", os.O_WRONLY) },
		"its log is open in": func(w *files) { w.Files.Log = w.blocking() },
		"its memory is":      func(w *files) { w.Files.Memory = shut(w) },
		"its control socket": func(w *files) { w.Files.QMP = shut(w) },
		"its console socket": func(w *files) { w.Files.Console = w.file("said", os.O_WRONLY) },
		"its disk root is":   func(w *files) { w.Disks[0].ReadOnly = false },
		"its disk data is":   func(w *files) { w.Disks[1].ReadOnly = true },
		"its kernel is":      func(w *files) { w.Restore, w.Files.Kernel = false, w.file("kernel", os.O_RDWR) },
		"its initrd is": func(w *files) {
			w.Restore, w.Files.Kernel, w.Files.Initrd = false, w.file("kernel", os.O_RDONLY), w.file("initrd", os.O_WRONLY)
		},
		"its TAP is":          func(w *files) { w.Files.TAP, w.MAC = w.file("tap", os.O_RDWR), "02:fc:00:00:00:01" },
		"a TAP and a MAC":     func(w *files) { w.MAC = "02:fc:00:00:00:01" },
		"boots a kernel, or":  func(w *files) { w.Restore = false },
		"a device state":      func(w *files) { w.Files.Initrd = w.file("initrd", os.O_RDONLY) },
		"1 files for 2 disks": func(w *files) { w.Files.Disks = w.Files.Disks[:1] },
		"bytes":               func(w *files) { must(w.t, w.Files.Memory.Truncate(16<<20-1)) },
		"of mode":             func(w *files) { must(w.t, w.Files.Memory.Chmod(0o601)) },
		"of user 12345":       func(w *files) { must(w.t, w.Files.Memory.Chown(12345, 12345)) },
		"of several names":    func(w *files) { must(w.t, os.Link(filepath.Join(w.dir, "memory"), filepath.Join(w.dir, "second"))) },
	} {
		t.Run(want, func(t *testing.T) {
			w := newFiles(t)
			spoil(w)
			p, _, err := h.Launch(t.Context(), w.Launch)
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), want) || p != nil {
				t.Errorf("got %v, %v, want %q", p, err, want)
			}
		})
	}
	w := newFiles(t) // the memory may be the VMM's already
	must(t, w.Files.Memory.Chown(user, user))
	p, _, err := h.Launch(t.Context(), w.Launch)
	if err == nil {
		_, _, _, err = p.Wait()
		_ = p.Close()
	}
	if err != nil && !strings.Contains(err.Error(), "exited at once") { // as this QEMU does
		t.Errorf("as it should be: %v", err)
	}
	st, err := w.Files.Memory.Stat()
	must(t, err)
	if got := st.Sys().(*syscall.Stat_t); got.Uid != user || got.Gid != user || got.Mode&0o777 != 0o600 {
		t.Errorf("the memory is user %d's, group %d's, with mode %o", got.Uid, got.Gid, got.Mode&0o777)
	}
}
