package hostd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/sys"
	"mvm/internal/testenv"
)

// sayHello is the main of a process of another user.
func sayHello(path string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := hostd.NewClient(path).Hello(ctx)
	fmt.Print(mvm.KindOf(err))
	os.Exit(0)
}

// Of all users the agent's alone is answered, and root.
func TestPeers(t *testing.T) {
	testenv.NeedRoot(t)
	const agent = 64_400
	client, socket := hostdtest.Serve(t, hostd.Options{UID: agent})
	must(t, os.Chmod(socket, 0o666)) // the socket's own mode is not what is tested
	must(t, client.Hello(t.Context()))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	program := filepath.Join(testenv.Dir(t), "test")
	must(t, os.WriteFile(program, self, 0o755))
	for _, c := range []struct {
		uid  int
		want string
	}{{agent, ""}, {agent + 1, string(mvm.KindUnavailable)}, {65534, string(mvm.KindUnavailable)}} {
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Env = append(os.Environ(), "MVM_TEST_HELLO="+socket)
		// A member of the agent's group is not the agent.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.uid), Gid: agent}}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("user %d: %q, %v; want %q", c.uid, out, err, c.want)
		}
	}
}

// Frames that are too large, unknown, broken or slow are refused and cost little.
func TestFrames(t *testing.T) {
	w := newWorld(t)
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	many := make([]*os.File, 17)
	for i := range many {
		many[i] = null
	}
	for _, c := range []struct {
		name  string
		frame []byte
		files []*os.File
		want  string
	}{
		{"hello", frame(hostd.OpHello, []byte("{}")), nil, "epoch"},
		{"oversized", frame(hostd.OpHello, make([]byte, hostd.MaxRequest+1)), nil, "at most"},
		{"oversized config", frame(hostd.OpApply, make([]byte, hostd.MaxApply+1)), nil, "at most"},
		{"4 GiB announced", []byte{hostd.Version, hostd.OpApply, 0xff, 0xff, 0xff, 0xff}, nil, "at most"},
		{"no such request", frame(0, []byte("{}")), nil, "no kind 0"},
		{"no such request either", frame(hostd.OpLast+1, []byte("{}")), nil, "no kind"},
		{"the last byte", frame(255, []byte("{}")), nil, "no kind 255"},
		{"another version", []byte{9, hostd.OpHello, 0, 0, 0, 2, '{', '}'}, nil, "version 9"},
		{"no JSON", frame(hostd.OpApply, []byte("{")), nil, "read request"},
		{"empty", frame(hostd.OpApply, nil), nil, "read request"},
		{"unknown field", frame(hostd.OpHello, []byte(`{"path":"/etc/shadow"}`)), nil, "unknown field"},
		{"more behind it", frame(hostd.OpHello, []byte(`{} {}`)), nil, "after its JSON"},
		{"deep", frame(hostd.OpApply, []byte(strings.Repeat("[", 1<<20))), nil, "read request"},
		{"files for nothing", frame(hostd.OpHello, []byte("{}")), []*os.File{null}, "no use for"},
		{"too many files", frame(hostd.OpStart, []byte("{}")), many, "files came with it"},
		{"a VMM without files", frame(hostd.OpStart, []byte(`{"spec":{}}`)), nil, "0 files came with it"},
		{"a VMM without a spec", frame(hostd.OpStart, []byte("{}")), nil, "read the VMM's spec"},
		{"a spec with more", frame(hostd.OpStart, []byte(`{"spec":{"path":"/etc/shadow"}}`)), nil, "unknown field"},
		{"a VMM of another kind", frame(hostd.OpStart, []byte(`{"vmm":"other","spec":{}}`)), nil, "no VMMs of kind"},
		{"an end of another kind", frame(hostd.OpKill, []byte(`{"vmm":"other"}`)), nil, "no VMMs of kind"},
		{"an agent of an older mvm", frame(hostd.OpLaunch, []byte(`{"id":"i-00000001"}`)), nil, "restart the agent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, took := w.raw(c.frame, c.files...)
			if !strings.Contains(string(got), c.want) || took > hostd.ReadTimeout {
				t.Errorf("answered %.300q after %v, want %q", got, took, c.want)
			}
		})
	}
	t.Run("slow", func(t *testing.T) {
		got, took := w.raw(frame(hostd.OpHello, []byte("{}"))[:7])
		if strings.Contains(string(got), "epoch") || took < hostd.ReadTimeout/2 || took > 4*hostd.ReadTimeout {
			t.Errorf("answered %.300q after %v, want the connection to end after %v", got, took, hostd.ReadTimeout)
		}
	})
	must(t, w.client.Hello(t.Context()))
}

// What a VMM may not be is refused before anything is done for it.
func TestLaunchRefused(t *testing.T) {
	w := newWorld(t)
	const id = "i-00000001"
	victim := filepath.Join(w.dir, "victim")
	must(t, os.WriteFile(victim, make([]byte, 16<<20), 0o600))
	must(t, os.Chown(victim, 12345, 12345))
	open := func(path string, mode int) *os.File {
		f, err := os.OpenFile(path, mode, 0)
		must(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	for name, spoil := range map[string]func(l *spawn.Launch){
		"root":                 func(l *spawn.Launch) { l.UID, l.GID = 0, 0 },
		"root's group":         func(l *spawn.Launch) { l.GID = 0 },
		"another group":        func(l *spawn.Launch) { l.GID++ },
		"a user below":         func(l *spawn.Launch) { l.UID, l.GID = uid-1, uid-1 },
		"a user above":         func(l *spawn.Launch) { l.UID, l.GID = uid+11, uid+11 },
		"a negative user":      func(l *spawn.Launch) { l.UID, l.GID = -1, -1 },
		"a user that wraps":    func(l *spawn.Launch) { l.UID, l.GID = 1<<32+uid, 1<<32+uid },
		"another id":           func(l *spawn.Launch) { l.ID = "i-00000002" },
		"no id":                func(l *spawn.Launch) { l.ID = "" },
		"an id with arguments": func(l *spawn.Launch) { l.ID = "x,debug-threads=on" },
		"a path that escapes":  func(l *spawn.Launch) { l.RunDir = filepath.Join(w.dir, "i") + "/../i/" + id },
		"a foreign path":       func(l *spawn.Launch) { l.RunDir = "/etc/" + id },
		"a path below":         func(l *spawn.Launch) { l.RunDir = filepath.Join(w.dir, "i", "x", id) },
		"no path":              func(l *spawn.Launch) { l.RunDir = "" },
		"probe as an instance": func(l *spawn.Launch) { l.ID = vmproc.ProbeID },
		"another cgroup":       func(l *spawn.Launch) { l.Cgroup = "../system.slice" },
		"an accelerator":       func(l *spawn.Launch) { l.Accel = "tcg,x=y" },
		"no memory":            func(l *spawn.Launch) { l.MemMiB = 0 },
		"endless memory":       func(l *spawn.Launch) { l.MemMiB = 1 << 40 },
		"no CPU":               func(l *spawn.Launch) { l.VCPUs = 0 },
		"a kernel argument":    func(l *spawn.Launch) { l.Cmdline = "a\x00-incoming" },
		"a serial":             func(l *spawn.Launch) { l.Disks[0].Serial = "x,drive=y" },
		"a MAC":                func(l *spawn.Launch) { l.MAC = "02:fc:00:00:00:01,romfile=/etc/passwd" },
		"a MAC without TAP":    func(l *spawn.Launch) { l.MAC = "02:fc:00:00:00:01" },
		"disks without files":  func(l *spawn.Launch) { l.Disks = append(l.Disks, spawn.Disk{Serial: "more"}) },
		"too many disks": func(l *spawn.Launch) {
			for range 10 {
				l.Disks, l.Files.Disks = append(l.Disks, l.Disks[0]), append(l.Files.Disks, l.Files.Disks[0])
			}
		},
		"a boot without kernel":     func(l *spawn.Launch) { l.Restore = false },
		"somebody else's memory":    func(l *spawn.Launch) { l.Files.Memory = open(victim, os.O_RDWR) },
		"memory only to be read":    func(l *spawn.Launch) { l.Files.Memory = open(w.path(id, "memory"), os.O_RDONLY) },
		"memory of another size":    func(l *spawn.Launch) { l.MemMiB = 17 },
		"memory that is a device":   func(l *spawn.Launch) { l.Files.Memory = open(os.DevNull, os.O_RDWR) },
		"memory that is a folder":   func(l *spawn.Launch) { l.Files.Memory = open(w.dir, os.O_RDONLY) },
		"memory without contents":   func(l *spawn.Launch) { l.Files.Memory = open(w.path(id, "memory"), 0x200000) }, // O_PATH
		"a disk that is a device":   func(l *spawn.Launch) { l.Files.Disks[0] = open("/dev/zero", os.O_RDWR) },
		"a read-only disk to write": func(l *spawn.Launch) { l.Disks[0].ReadOnly = true },
		"a log that is a file":      func(l *spawn.Launch) { l.Files.Log = l.Files.Lock },
		"a socket that is a file":   func(l *spawn.Launch) { l.Files.QMP = l.Files.Lock },
		"a TAP that is a file": func(l *spawn.Launch) {
			l.Files.TAP, l.MAC = l.Files.Lock, "02:fc:00:00:00:01"
		},
		"memory of two names": func(l *spawn.Launch) {
			must(t, os.Link(w.path(id, "memory"), w.path(id, "second")))
			t.Cleanup(func() { must(t, os.Remove(w.path(id, "second"))) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.t = t
			l := w.launch(id)
			was := l.Name
			spoil(&l)
			p, _, err := w.vmms().Launch(t.Context(), l)
			if k := mvm.KindOf(err); k != mvm.KindInvalid && k != mvm.KindPolicy {
				t.Errorf("launch: %v, %v (kind %q), want it refused", p, err, k)
			}
			if n := w.running(was) + w.running(l.Name); n > 0 {
				t.Errorf("%d VMMs run", n)
			}
			for path, owner := range map[string]uint32{w.path(id, "memory"): 0, victim: 12345} {
				st, err := os.Stat(path)
				must(t, err)
				if got := st.Sys().(*syscall.Stat_t).Uid; got != owner {
					t.Errorf("%s was given to user %d", path, got)
				}
			}
		})
	}
}

// Whatever is put in a file's place once it is open does not matter: neither a link
// nor another file is followed, given away or removed.
func TestNamesAreNotFollowed(t *testing.T) {
	w := newWorld(t)
	l := w.launch("i-00000003")
	victim := filepath.Join(w.dir, "victim")
	must(t, os.WriteFile(victim, make([]byte, 16<<20), 0o600))
	for _, name := range []string{"memory", "lock", "log", "data", "qmp", "con", "chan"} {
		must(t, os.Remove(w.path(l.ID, name)))
		must(t, os.Symlink(victim, w.path(l.ID, name)))
	}
	p, _, err := w.vmms().Launch(t.Context(), l)
	must(t, err)
	defer p.Close()
	st, err := os.Stat(victim)
	must(t, err)
	if got := st.Sys().(*syscall.Stat_t); got.Uid != 0 || got.Mode&0o777 != 0o600 {
		t.Errorf("the file behind the links was given to user %d, mode %o", got.Uid, got.Mode)
	}
	must(t, p.Kill(t.Context()))
	code, sig, known, err := p.Wait()
	if err != nil || !known || sig != syscall.SIGKILL {
		t.Errorf("its end: code %d, signal %v, known %v, %v; want SIGKILL", code, sig, known, err)
	}
	must(t, w.vmms().Leave(t.Context(), l.Name, l.Cgroup, nil))
}

// Only a VMM of this host is ever found, measured or ended, whatever number is told.
func TestForeignProcesses(t *testing.T) {
	w := newWorld(t)
	name := vmproc.Name{ID: "i-00000004", RunDir: filepath.Join(w.dir, "i", "i-00000004")}
	decoy := exec.CommandContext(t.Context(), "sleep", "600")
	decoy.Args = []string{"qemu-system-x86_64", "600"}
	must(t, decoy.Start())
	defer func() { _ = decoy.Process.Kill(); _ = decoy.Wait() }()
	named := exec.CommandContext(t.Context(), "sh", "-s", "-name", name.String()) // which reads to the end
	in, err := named.StdinPipe()
	must(t, err)
	must(t, named.Start())
	defer func() { _ = in.Close(); _ = named.Wait() }()
	for _, pid := range []int{1, os.Getpid(), decoy.Process.Pid, named.Process.Pid, -1, 0, 1 << 30} {
		hint := vmproc.Hint{PID: pid}
		if p, err := sys.OpenProcess(pid); err == nil {
			hint.Start = p.Start
			must(t, p.Close())
		}
		if p, err := w.vmms().Find(t.Context(), name, hint); !errors.Is(err, sys.ErrNoProcess) || p != nil {
			t.Errorf("process %d: found %v, %v", pid, p, err)
		}
		got, _ := w.raw(frame(hostd.OpKill, fmt.Appendf(nil, `{"name":%s,"hint":%s}`, encoded(t, name), encoded(t, hint))))
		if !strings.Contains(string(got), "no such process") {
			t.Errorf("kill of process %d: answered %q", pid, got)
		}
	}
	for _, p := range []*exec.Cmd{decoy, named} {
		if err := p.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("process %d: %v", p.Process.Pid, err)
		}
	}
	for _, n := range []vmproc.Name{{ID: name.ID, RunDir: "/run/other/" + name.ID}, {ID: "other", RunDir: name.RunDir}, {}} {
		if _, err := w.vmms().Find(t.Context(), n, vmproc.Hint{}); mvm.KindOf(err) != mvm.KindPolicy && mvm.KindOf(err) != mvm.KindInvalid {
			t.Errorf("find %v: %v, want it refused", n, err)
		}
		if err := w.vmms().Leave(t.Context(), n, "mvm-"+n.ID, nil); mvm.KindOf(err) != mvm.KindPolicy && mvm.KindOf(err) != mvm.KindInvalid {
			t.Errorf("leave %v: %v, want it refused", n, err)
		}
	}
	if _, err := w.client.Network().OpenTAP(t.Context(), "acme", name.ID, 0); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("TAP for root: %v, want it refused", err)
	}
}
