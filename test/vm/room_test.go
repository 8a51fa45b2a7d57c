package vm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/testenv"
)

// room is a machine of its own whose PID 1 is a real systemd: this host's programs, and
// otherwise what a new host has.
type room struct {
	t     testing.TB
	dir   string
	init  *exec.Cmd
	hiers []hierarchy
	told  roomOptions
	noApt func() // ends serveApt; nil where it does not run
}

// roomOptions is what its first process is told.
type roomOptions struct {
	Dir   string            // what it is made in
	Base  string            // "", or a root filesystem that it has instead of this host's programs
	Disk  string            // with Base: what outlives the room's processes
	Binds map[string]string // folder of the room -> this host's
	Hiers []hierarchy
}

// hierarchy is a cgroup tree of this host, of which the room gets a part.
type hierarchy struct {
	Mount, Type, Options string // as it is mounted here
	Dir                  string // the room's part
}

// newRoom starts a room. At the end everything of it is ended and gone.
func newRoom(t testing.TB, binds map[string]string) *room {
	t.Helper()
	return newRoomOf(t, roomOptions{Binds: binds})
}

func newRoomOf(t testing.TB, o roomOptions) *room {
	t.Helper()
	testenv.NeedRoot(t)
	r := &room{t: t, dir: testenv.Dir(t)}
	testenv.NothingLeft(t, r.dir)
	r.cgroups()
	for _, d := range []string{"top", "root"} {
		must(t, os.Mkdir(filepath.Join(r.dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(r.dir, "console"), nil, 0o600))
	r.told = o
	r.told.Dir, r.told.Hiers = r.dir, r.hiers
	t.Cleanup(r.end)
	r.boot()
	return r
}

// boot starts the room's first process, and waits until it has started what there is.
func (r *room) boot() {
	r.t.Helper()
	told, err := json.Marshal(r.told)
	must(r.t, err)
	cmd := self(r.t.Context(), "room", place())
	cmd.Env = append(cmd.Env, envOptions+"="+string(told))
	cmd.Stdin = nil
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	must(r.t, cmd.Start())
	r.init = cmd
	testenv.Eventually(r.t, patience, func() error {
		out, err := r.try("systemctl", "is-active", r.told.target())
		if err != nil {
			err = fmt.Errorf("%w: %s\n%s", err, out, r.console())
		}
		return err
	})
}

// end ends every process of the room with its first.
func (r *room) end() {
	r.t.Helper()
	if r.t.Failed() && r.init != nil {
		r.t.Logf("console:\n%s", r.console())
		if out, err := r.try("journalctl", "--no-pager", "-u", "mvm-hostd", "-u", "mvm-agent"); err == nil {
			r.t.Logf("journal:\n%s", out)
		}
	}
	r.halt()
	for _, h := range r.hiers {
		testenv.Eventually(r.t, 10*time.Second, func() error { return removeCgroups(h.Dir) })
	}
}

// halt ends every process of the room, as a power failure does.
func (r *room) halt() {
	if r.init != nil {
		_ = r.init.Process.Kill()
		r.ended()
	}
}

// ended waits until the room's first process has ended, and with it all others.
func (r *room) ended() {
	_ = r.init.Wait()
	if r.noApt != nil {
		r.noApt()
		r.noApt = nil
	}
}

func (r *room) console() string {
	b, _ := os.ReadFile(filepath.Join(r.dir, "console"))
	return string(b)
}

// path is a file of the room, seen from outside.
func (r *room) path(p string) string {
	return fmt.Sprintf("/proc/%d/root%s", r.init.Process.Pid, p)
}

// try runs a program in the room.
func (r *room) try(args ...string) (string, error) {
	enter := []string{"--target", strconv.Itoa(r.init.Process.Pid), "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--root", "--wd", "--"}
	cmd := exec.CommandContext(r.t.Context(), "nsenter", append(enter, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin", "HOME=/root", "NO_COLOR=1"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try for what has to work.
func (r *room) run(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// cgroups makes the room's parts of the trees that systemd uses, of version 1, 2 or both.
func (r *room) cgroups() {
	r.t.Helper()
	own := map[string]string{} // controllers, "" for version 2 -> this process's
	b, err := os.ReadFile("/proc/self/cgroup")
	must(r.t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			own[f[1]] = f[2]
		}
	}
	b, err = os.ReadFile("/proc/self/mountinfo")
	must(r.t, err)
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		h := hierarchy{Mount: f[4], Type: g[0]}
		if h.Type != "cgroup" && h.Type != "cgroup2" || !strings.HasPrefix(h.Mount, "/sys/fs/cgroup") {
			continue
		}
		name := ""
		if h.Type == "cgroup" {
			name = strings.TrimPrefix(g[2], "rw,")
			h.Options = strings.Replace(name, "name=systemd", "none,name=systemd", 1)
		}
		at, known := own[name]
		if !known || strings.Contains(name, "cpuset") { // which takes no process before it is set up
			continue
		}
		if st, err := os.Stat(h.Mount); err != nil || !st.IsDir() {
			continue // a file of a cgroup that was mounted by itself
		}
		rel, err := filepath.Rel(f[3], at)
		must(r.t, err)
		// Random: a process number is of a namespace, and two runs of the tests share the tree.
		h.Dir = filepath.Join(h.Mount, rel, "mvm-room-"+filepath.Base(r.dir))
		must(r.t, os.Mkdir(h.Dir, 0o755))
		r.hiers = append(r.hiers, h)
	}
}

// removeCgroups removes a cgroup and those below it.
func removeCgroups(dir string) error {
	var errs []error
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && p != dir {
			errs = append(errs, removeCgroups(p))
			return fs.SkipDir
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(append(errs, err, os.Remove(dir))...)
}

// beRoom is the room's first process: it makes the room around itself, and becomes systemd.
func beRoom() int {
	runtime.LockOSThread() // the cgroup namespace is the thread's
	o, err := part[roomOptions](envOptions)
	steps := []func(roomOptions) error{enterCgroups, mountRoot, mountKernel, mountDevices, writeEtc, pivot}
	if o.Base != "" {
		steps = []func(roomOptions) error{enterCgroups, mountBase, mountKernel, mountDevices, pivot}
	}
	for _, step := range steps {
		if err == nil {
			err = step(o)
		}
	}
	if err == nil {
		err = unix.Exec("/lib/systemd/systemd", []string{"/lib/systemd/systemd", "--system", "--unit=" + o.target(), "--log-target=console", "--show-status=no"},
			[]string{"container=mvm", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
	}
	fmt.Fprintln(os.Stderr, "make room:", err)
	return 1
}

func enterCgroups(o roomOptions) error {
	for _, h := range o.Hiers {
		if err := os.WriteFile(filepath.Join(h.Dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	return unix.Unshare(unix.CLONE_NEWCGROUP)
}

// target is what systemd starts: in a root filesystem of its own what is enabled there.
func (o roomOptions) target() string {
	if o.Base != "" {
		return "multi-user.target"
	}
	return "room.target"
}

func (o roomOptions) root(p string) string { return filepath.Join(o.Dir, "root", p) }

// mountRoot has this host's programs, and room to install others beside them.
func mountRoot(o roomOptions) error {
	top := filepath.Join(o.Dir, "top")
	err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("room", o.root("/"), "tmpfs", 0, "mode=755"), unix.Mount("room", top, "tmpfs", 0, "mode=755"))
	for _, d := range []string{"upper", "work"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(top, d), 0o755))
	}
	for _, d := range []string{"usr", "proc", "sys", "dev", "run", "etc", "var/lib", "var/log", "var/tmp", "tmp", "root", "home", "srv", "old"} {
		err = errors.Join(err, os.MkdirAll(o.root(d), 0o755))
	}
	err = errors.Join(err, os.Chmod(o.root("tmp"), 0o1777), os.Chmod(o.root("var/tmp"), 0o1777),
		unix.Mount("overlay", o.root("usr"), "overlay", 0, "lowerdir=/usr,upperdir="+top+"/upper,workdir="+top+"/work"))
	for _, d := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if to, lerr := os.Readlink("/" + d); lerr == nil {
			err = errors.Join(err, os.Symlink(to, o.root(d)))
		} else if !errors.Is(lerr, fs.ErrNotExist) {
			err = errors.Join(err, bind("/"+d, o.root(d)))
		}
	}
	for to, from := range o.Binds {
		err = errors.Join(err, bind(from, o.root(to)))
	}
	return err
}

// bind has the folder or file be there, too.
func bind(from, to string) error {
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	if st.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else {
		err = os.WriteFile(to, nil, 0o644)
	}
	return errors.Join(err, unix.Mount(from, to, "", unix.MS_BIND, ""))
}

func mountKernel(o roomOptions) error {
	err := errors.Join(unix.Mount("proc", o.root("proc"), "proc", 0, ""), unix.Mount("sysfs", o.root("sys"), "sysfs", 0, ""))
	if len(o.Hiers) > 0 && o.Hiers[0].Mount != "/sys/fs/cgroup" {
		err = errors.Join(err, unix.Mount("room", o.root("sys/fs/cgroup"), "tmpfs", 0, "mode=755"))
	}
	for _, h := range o.Hiers {
		err = errors.Join(err, os.MkdirAll(o.root(h.Mount), 0o755), unix.Mount(h.Type, o.root(h.Mount), h.Type, 0, h.Options))
	}
	return errors.Join(err, unix.Mount("", o.root("sys"), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")) // no udev
}

func mountDevices(o roomOptions) error {
	err := unix.Mount("room", o.root("dev"), "tmpfs", 0, "mode=755")
	for _, d := range []string{"pts", "shm", "net"} {
		err = errors.Join(err, os.Mkdir(o.root("dev/"+d), 0o755))
	}
	for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty", "net/tun", "kvm"} {
		if _, serr := os.Stat("/dev/" + d); serr == nil {
			err = errors.Join(err, bind("/dev/"+d, o.root("dev/"+d)))
		}
	}
	for to, from := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		err = errors.Join(err, os.Symlink(from, o.root("dev/"+to)))
	}
	return errors.Join(err, unix.Mount("devpts", o.root("dev/pts"), "devpts", 0, "newinstance,ptmxmode=0666,mode=620"),
		unix.Mount("room", o.root("dev/shm"), "tmpfs", 0, ""), bind(filepath.Join(o.Dir, "console"), o.root("dev/console")))
}

// writeEtc has what programs need to find users and libraries, and nothing of this host's
// own services.
func writeEtc(o roomOptions) error {
	err := os.MkdirAll(o.root("etc/systemd/system"), 0o755)
	for _, f := range []string{"passwd", "group", "nsswitch.conf", "ld.so.cache", "ld.so.conf"} {
		b, rerr := os.ReadFile("/etc/" + f)
		if rerr == nil {
			rerr = os.WriteFile(o.root("etc/"+f), b, 0o644)
		}
		err = errors.Join(err, rerr)
	}
	if _, aerr := os.Stat("/etc/alternatives"); aerr == nil {
		err = errors.Join(err, bind("/etc/alternatives", o.root("etc/alternatives")))
	}
	for f, text := range map[string]string{
		"machine-id":                 strings.Repeat("0123456789abcdef", 2) + "\n",
		"hostname":                   "room\n",
		"systemd/system/room.target": "[Unit]\nDescription=A host for tests\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
	} {
		err = errors.Join(err, os.WriteFile(o.root("etc/"+f), []byte(text), 0o644))
	}
	return err
}

// pivot makes the room's root this process's.
func pivot(o roomOptions) error {
	console, err := os.OpenFile(filepath.Join(o.Dir, "console"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	if err := errors.Join(unix.PivotRoot(o.root("/"), o.root("old")), os.Chdir("/"), unix.Unmount("/old", unix.MNT_DETACH), os.Remove("/old")); err != nil {
		return err
	}
	return errors.Join(unix.Dup2(int(console.Fd()), 1), unix.Dup2(int(console.Fd()), 2))
}

// block is the n-th code block of the language in a section of a document.
func block(t testing.TB, doc, section, language string, n int) string {
	t.Helper()
	b, err := os.ReadFile(doc)
	must(t, err)
	_, text, found := bytes.Cut(b, []byte("\n## "+section+"\n"))
	text, _, _ = bytes.Cut(text, []byte("\n## "))
	for range n + 1 {
		var ok bool
		if _, text, ok = bytes.Cut(text, []byte("\n```"+language+"\n")); !ok {
			found = false
		}
	}
	code, _, ok := bytes.Cut(text, []byte("\n```"))
	if !found || !ok {
		t.Fatalf("%s has no block %d of %s in %q", doc, n, language, section)
	}
	return string(code) + "\n"
}
