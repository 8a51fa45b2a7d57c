package owner_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/owner"
	"mvm/internal/sys"
	"mvm/internal/testenv"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// of makes a data dir below the folder and returns its owner.
func of(t *testing.T, dir, name string) owner.Owner {
	t.Helper()
	data := filepath.Join(dir, name)
	must(t, os.MkdirAll(data, 0o711))
	o, err := owner.Of(data, filepath.Join(dir, name+".sock"))
	must(t, err)
	return o
}

func refused(t *testing.T, what string, err error, text string) {
	t.Helper()
	if !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v, want that it is refused with %q", what, err, text)
	}
}

// A data dir is one owner by every path, and a copy is another.
func TestMark(t *testing.T) {
	dir := testenv.Dir(t)
	a, b := of(t, dir, "a"), of(t, dir, "b")
	must(t, os.Symlink(a.DataDir, filepath.Join(dir, "link")))
	link, err := owner.Of(filepath.Join(dir, "link"), "")
	must(t, err)
	if a.Mark == b.Mark || a.Mark != link.Mark || a.Mark == "" {
		t.Errorf("marks: %q, by a symlink %q, of another %q", a.Mark, link.Mark, b.Mark)
	}
	must(t, os.Rename(a.DataDir, filepath.Join(dir, "moved")))
	if moved := of(t, dir, "moved"); moved.Mark != a.Mark {
		t.Errorf("moved it has mark %q, want %q", moved.Mark, a.Mark)
	}
	if !a.Gone() || b.Gone() {
		t.Errorf("gone: %v, %v", a.Gone(), b.Gone())
	}
	if _, err := owner.Mark(filepath.Join(dir, "none")); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("of no folder: %v", err)
	}
}

// One agent at a time works on a data dir, by whatever path.
func TestDataDirIsTaken(t *testing.T) {
	t.Parallel()
	dir := testenv.Dir(t)
	a := of(t, dir, "a")
	must(t, os.Symlink(a.DataDir, filepath.Join(dir, "link")))
	first, err := owner.TakeDataDir(a)
	must(t, err)
	link := a
	link.DataDir = filepath.Join(dir, "link")
	_, err = owner.TakeDataDir(link)
	refused(t, "by another path", err, "runs with it")
	must(t, first.Close())
	second, err := owner.TakeDataDir(link)
	must(t, err)
	must(t, second.Close())
}

// A run dir belongs to a data dir, also while no agent runs.
func TestRunDirBelongs(t *testing.T) {
	t.Parallel()
	dir := testenv.Dir(t)
	run := filepath.Join(dir, "r")
	must(t, os.MkdirAll(filepath.Join(run, "i", "i-00000001"), 0o711))
	a, b := of(t, dir, "a"), of(t, dir, "b")
	first, err := owner.TakeRunDir(run, a)
	must(t, err)
	_, err = owner.TakeRunDir(run, b)
	refused(t, "while its agent runs", err, a.DataDir)
	must(t, first.Close())
	_, err = owner.TakeRunDir(run, b)
	refused(t, "while its agent does not run", err, "its instances are in")
	again, err := owner.TakeRunDir(run, a)
	must(t, err)
	must(t, again.Close())
	must(t, os.RemoveAll(a.DataDir))
	_, err = owner.TakeRunDir(run, b)
	refused(t, "of a data dir that is gone, with an instance", err, "its instances are in")
	must(t, os.RemoveAll(filepath.Join(run, "i")))
	next, err := owner.TakeRunDir(run, b)
	must(t, err)
	must(t, next.Close())
}

// A data dir in another's place, or with another device number after a mount, takes the
// run dir once none of the former one's VMMs runs.
func TestRunDirOfTheSamePath(t *testing.T) {
	t.Parallel()
	dir := testenv.Dir(t)
	run := filepath.Join(dir, "r")
	vmm := filepath.Join(run, "i", "i-00000001")
	must(t, os.MkdirAll(vmm, 0o711))
	before := of(t, dir, "a")
	hold, err := owner.TakeRunDir(run, before)
	must(t, err)
	must(t, hold.Close())
	lock, err := os.Create(filepath.Join(vmm, "vmm.lock"))
	must(t, err)
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX)) // as its VMM does
	must(t, os.Rename(before.DataDir, before.DataDir+".old"))
	now := of(t, dir, "a")
	if now.Mark == before.Mark {
		t.Fatal("the new folder has the mark of the old one")
	}
	_, err = owner.TakeRunDir(run, now)
	refused(t, "while a VMM of the former runs", err, "i-00000001 runs there")
	must(t, lock.Close())
	again, err := owner.TakeRunDir(run, now)
	must(t, err)
	must(t, again.Close())
}

// A run dir of an mvm that wrote no owner is that agent's whose instances run in it.
func TestRunDirOfAnOlderMvm(t *testing.T) {
	dir := testenv.Dir(t)
	run := filepath.Join(dir, "r")
	vmm := filepath.Join(run, "i", "i-00000001")
	must(t, os.MkdirAll(vmm, 0o711))
	lock, err := os.Create(filepath.Join(vmm, "vmm.lock"))
	must(t, err)
	defer lock.Close()
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX)) // as its VMM does
	a, b := of(t, dir, "a"), of(t, dir, "b")
	must(t, os.MkdirAll(filepath.Join(a.DataDir, "instances", "i-00000001"), 0o700))
	_, err = owner.TakeRunDir(run, b)
	refused(t, "with another's VMM", err, "i-00000001 runs there")
	h, err := owner.TakeRunDir(run, a)
	must(t, err)
	must(t, h.Close())
}

// Who put something else where a lock is does not get it locked, nor harms what is behind it.
func TestLocksThatAreNot(t *testing.T) {
	testenv.NeedRoot(t)
	for name, put := range map[string]func(path string) error{
		"a symlink":                func(p string) error { return os.Symlink(p+".to", p) },
		"a fifo":                   func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"another user's":           func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chown(p, 4711, 4711)) },
		"a hard link":              func(p string) error { return errors.Join(os.WriteFile(p+".to", nil, 0o600), os.Link(p+".to", p)) },
		"open to others":           func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o666)) },
		"in a folder of everybody": func(p string) error { return os.Chmod(filepath.Dir(p), 0o777|os.ModeSticky) },
		"in another user's folder": func(p string) error { return os.Chown(filepath.Dir(p), 4711, 4711) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(testenv.Dir(t), "lock")
			must(t, put(path))
			if f, err := sys.LockFile(path, 0); err == nil {
				f.Close()
				t.Error("it was taken")
			}
			if _, err := os.Lstat(path + ".to"); name == "a symlink" && err == nil {
				t.Error("the symlink was followed")
			}
		})
	}
}

// No local user can keep the networks' lock from an agent, as nobody but root can open it.
func TestNetworksBelong(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t)
	dir := testenv.Dir(t)
	a, b := of(t, dir, "a"), of(t, dir, "b")
	runtime.LockOSThread() // and never unlocked: the network namespace goes with it
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	file := networksFile(t)
	defer os.Remove(file)
	if was, err := owner.NetworksOf(); err != nil || was.DataDir != "" && !was.Gone() {
		t.Errorf("the networks of a new namespace are of %+v, %v", was, err)
	}
	there := owner.Networks{}
	look := func() (owner.Networks, error) { return there, nil }
	first, err := owner.TakeNetworks(a, look)
	must(t, err)
	if of, err := owner.NetworksOf(); err != nil || of != a {
		t.Errorf("the networks are of %+v, %v; want %+v", of, err, a)
	}
	_, err = owner.TakeNetworks(b, look)
	refused(t, "while its agent runs", err, "runs with it")
	if !strings.Contains(err.Error(), a.Socket) {
		t.Errorf("%v does not say that the other agent is at %s", err, a.Socket)
	}
	must(t, first.Close())
	there = owner.Networks{Bridges: []string{"br-tenant-0"}, TAPs: []string{"tn0i3"}}
	_, err = owner.TakeNetworks(b, look)
	refused(t, "with its VMMs", err, "tn0i3")
	there.TAPs = nil
	_, err = owner.TakeNetworks(b, look)
	refused(t, "with its bridges", err, "br-tenant-0")
	must(t, os.RemoveAll(a.DataDir))
	for range 2 { // of an owner that is gone, and then its own
		h, err := owner.TakeNetworks(b, look)
		must(t, err)
		must(t, h.Close())
	}
	st, err := os.Stat(owner.LockDir)
	must(t, err)
	if own := st.Sys().(*syscall.Stat_t); own.Uid != 0 || st.Mode().Perm()&0o022 != 0 {
		t.Errorf("%s is of user %d, mode %v", owner.LockDir, own.Uid, st.Mode())
	}
	if out, err := asNobody("flock", "-n", file, "true"); err == nil {
		t.Errorf("another user locked the networks: %s", out)
	}
}

func networksFile(t *testing.T) string {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat("/proc/thread-self/ns/net", &st))
	return fmt.Sprintf("%s/networks-%d", owner.LockDir, st.Ino)
}

func asNobody(argv ...string) ([]byte, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd.CombinedOutput()
}

// No two owners' VMMs run as the same users.
func TestUsersBelong(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t)
	dir := testenv.Dir(t)
	a, b := of(t, dir, "a"), of(t, dir, "b")
	first := owner.AnyUsers()
	h, err := owner.TakeUsers(a, first)
	must(t, err)
	t.Cleanup(func() { _ = os.Remove(fmt.Sprintf("%s/users-%x", owner.LockDir, first)) })
	_, err = owner.TakeUsers(b, first)
	refused(t, "while its agent runs", err, "runs with it")
	must(t, h.Close())
	_, err = owner.TakeUsers(b, first)
	refused(t, "while its data is there", err, "uid_base")

	must(t, os.RemoveAll(a.DataDir))
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(first + 7), Gid: uint32(first + 7)}}
	must(t, cmd.Start())
	_, err = owner.TakeUsers(b, first)
	refused(t, "while its VMM runs", err, "process")
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	h, err = owner.TakeUsers(b, first)
	must(t, err)
	must(t, h.Close())
	for _, bad := range []int{0, 1000, owner.FirstUser + 1, owner.FirstUser + owner.Ranges*owner.RangeUsers} {
		if _, err := owner.TakeUsers(b, bad); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("from %d on: %v", bad, err)
		}
	}
}
