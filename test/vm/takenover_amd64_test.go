package vm_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
	"mvm/internal/testenv/inject"
)

// TestTakenOver: a VMM that was taken over makes system calls of its attacker's choice,
// with its user and behind its filter. None reaches anything outside of its instance, nor
// does anything that the agent does afterwards with what it finds in the instance's folders.
// It has no walls but its user and QEMU's filter: behind the others it would get to none of
// its folders, and what the agent does with them would not be tried.
func TestTakenOver(t *testing.T) { testTakenOver(newHostOf(t, "qemu", 0, allWalls()...)) }

// TestTakenOverSplit is the same where the agent has no rights.
func TestTakenOverSplit(t *testing.T) { testTakenOver(newSplitHost(t, allWalls()...)) }

func allWalls() []string { return strings.Split(manifest.Walls, ", ") }

// TestTakenOverInTheJail: behind all walls the first call of that kind ends the VMM, and
// people are told which it was, whoever started the VMM.
func TestTakenOverInTheJail(t *testing.T) {
	for name, h := range map[string]func(t testing.TB) *host{"root": func(t testing.TB) *host { return newHost(t, "qemu") }, "split": func(t testing.TB) *host { return newSplitHost(t) }} {
		t.Run(name, func(t *testing.T) {
			h := h(t)
			h.deploy(boxTenant("acme", 41))
			id := h.only("workers").ID
			pid := h.vmm(id)
			if err := inject.Into(pid, pid, connected(filepath.Join(h.dir, "s"))); !errors.Is(err, inject.ErrEnded) {
				t.Errorf("connect to the agent: %v, want the VMM ended", err)
			}
			testenv.Eventually(t, patience, func() error {
				all := ""
				err := h.client.Events(h.ctx(), mvm.EventFilter{Instance: id}, func(e mvm.Event) error {
					all += fmt.Sprintf("%+v\n", e)
					return nil
				})
				if err == nil && !strings.Contains(all, "system call socket(0x1)") {
					err = fmt.Errorf("no event says it:\n%s", all)
				}
				return err
			})
		})
	}
}

func testTakenOver(h *host) {
	b := newBox(h)
	for n := range b.actions() {
		b.attack(b.actions()[n]) // as it is with the instance of now: a spoilt one was replaced
	}
	b.dialStrangePort()
	b.tryAll()
	b.passFiles()
	b.hide()
	b.t.Logf("%d actions:\n%s", len(b.table), strings.Join(b.table, "\n"))
	if len(b.table) < 30 {
		b.t.Errorf("%d actions, want at least 30", len(b.table))
	}
}

// box is an instance whose VMM was taken over, and what is around it.
type box struct {
	*host
	id, other string // the instances
	data, run string // the folders of the one that was taken over
	root      string // root's own folder, that nobody else can look into
	kept      string // the other's boot
	outside   map[string]string
	table     []string
}

// what root's folder holds, and what the other tenant's disk does.
const (
	rootText  = "root's alone"
	otherText = "zeta's alone"
)

func boxTenant(id string, netID int) string {
	return fmt.Sprintf("[tenant]\nid = %q\nnet_id = %d\n[[pools]]\nid = \"workers\"\nflake = \"builtin:minimal\"\n"+
		"vcpus = 1\nmem_mib = 128\ndata_disk_mib = 16\ndesired_running = 1\ngraceful_shutdown_seconds = 1\ndrain_timeout_seconds = 1\n", id, netID)
}

func newBox(h *host) *box {
	h.t.Helper()
	b := &box{host: h, root: testenv.Dir(h.t)}
	must(b.t, os.Chmod(b.root, 0o700))
	for _, name := range []string{"file", "folder/one", "folder/two/three"} {
		must(b.t, os.MkdirAll(filepath.Dir(filepath.Join(b.root, name)), 0o700))
		must(b.t, os.WriteFile(filepath.Join(b.root, name), []byte(rootText), 0o600))
	}
	h.deploy(boxTenant("zeta", 42))
	b.other = h.only("workers").ID
	must(b.t, h.write(b.other, "/data/who", otherText))
	b.kept = h.boot(b.other)
	h.deploy(boxTenant("acme", 41) + "[[pools]]\nid = \"dial\"\nflake = \"" + imageRef(imgDial) + "\"\nvcpus = 1\nmem_mib = 128\n")
	b.take(b.fresh())
	b.outside = b.look()
	return b
}

// fresh is the instance of tenant acme's workers, made anew where there is none.
func (b *box) fresh() mvm.Instance {
	b.t.Helper()
	all, err := b.client.Instances(b.ctx(), mvm.Address{Tenant: "acme", Pool: "workers"})
	must(b.t, err)
	if len(all) > 0 {
		b.seen[all[0].ID] = true
		return all[0]
	}
	i, err := b.client.CreateInstance(b.ctx(), "acme", "workers", "")
	must(b.t, err)
	b.seen[i.ID] = true
	return i
}

// take makes the instance the one that was taken over, running.
func (b *box) take(i mvm.Instance) {
	b.t.Helper()
	b.id, b.data, b.run = i.ID, filepath.Join(b.host.data, "instances", i.ID), filepath.Join(b.dir, "r", "i", i.ID)
	if i.State != mvm.StateRunning {
		b.do(i.ID, mvm.OpStart)
	}
	b.do(i.ID, mvm.OpSleep) // a VMM that was restored has a memory file
	b.do(i.ID, mvm.OpWake)
}

// action is something that an attacker tries.
type action struct {
	name string
	do   func(*inject.Thread) error
	// forbidden: that it succeeds is bad enough.
	forbidden bool
	// then is what the agent does afterwards with what it finds.
	then []func()
	// spoils: where it succeeds the instance is not to be used any more.
	spoils bool
}

// attack has the VMM do it, then the agent what used to follow, and looks at all that is
// outside of the instance.
func (b *box) attack(a action) {
	b.t.Helper()
	pid := b.vmm(b.id)
	err := inject.Into(pid, pid, a.do)
	said := "done"
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		said = strings.ToLower(errno.Error())
	case errors.Is(err, inject.ErrEnded):
		said = "its filter ended it"
	case err != nil:
		b.t.Fatalf("%s: %v", a.name, err)
	case a.forbidden:
		b.t.Errorf("%s: it could", a.name)
		said += ", which it must not"
	}
	bad := b.check()
	for _, f := range a.then {
		if err == nil {
			f()
			bad = append(bad, b.check()...)
		}
	}
	for _, what := range bad {
		b.t.Errorf("%s: %s", a.name, what)
	}
	if len(bad) > 0 {
		said += "; REACHED " + strings.Join(bad, ", ")
	}
	b.table = append(b.table, fmt.Sprintf("%-50s %s", a.name, said))
	switch {
	case errors.Is(err, inject.ErrEnded):
		b.again()
	case err == nil && a.spoils:
		_, _ = b.try(b.id, mvm.OpDestroy)
		for _, what := range b.check() {
			b.t.Errorf("%s, then destroy: %s", a.name, what)
		}
		b.take(b.fresh())
	}
}

// again starts the instance whose VMM was ended, or of which the main thread alone was.
func (b *box) again() {
	b.t.Helper()
	b.do(b.id, mvm.OpStop)
	if left := vmms(b.dir)[b.id]; left > 0 {
		b.t.Errorf("%d VMMs of an instance that was stopped", left)
	}
	b.do(b.id, mvm.OpStart)
}

// check says what is not as it was outside of the instance, and takes that as it is now.
func (b *box) check() []string {
	b.t.Helper()
	var bad []string
	now := b.look()
	if !maps.Equal(now, b.outside) { // a file that was just being written is not there for long
		time.Sleep(200 * time.Millisecond)
		now = b.look()
	}
	for p, was := range b.outside {
		if is := now[p]; is != was {
			bad = append(bad, fmt.Sprintf("%s is %q, was %q", p, is, was))
		}
	}
	for p, is := range now {
		if _, ok := b.outside[p]; !ok {
			bad = append(bad, fmt.Sprintf("%s is new: %q", p, is))
		}
	}
	b.outside = now
	bad = append(bad, b.holds()...)
	if got, err := b.exec(b.other, "cat", "/data/who", "/proc/sys/kernel/random/boot_id"); err != nil || got != otherText+b.kept {
		bad = append(bad, fmt.Sprintf("the other tenant's guest says %q, %v", got, err))
	}
	slices.Sort(bad)
	return bad
}

// look describes all files around the instance: of the root folder with what is in them.
func (b *box) look() map[string]string {
	b.t.Helper()
	all := map[string]string{}
	roots := []string{b.root, b.dir}
	if b.split != nil {
		roots = append(roots, b.split.dir)
	}
	for _, root := range roots {
		must(b.t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) { // it went meanwhile
				return nil
			}
			if err != nil {
				return err
			}
			if d.IsDir() && (p == b.data || p == b.run || p == filepath.Join(b.host.data, "images") || b.dials(p)) {
				return fs.SkipDir
			}
			if keptLog(d.Name()) { // it begins when its guest has said something
				return nil
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			must(b.t, err)
			st := info.Sys().(*syscall.Stat_t)
			all[p] = fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
			if info.Mode().IsRegular() {
				all[p] += fmt.Sprintf(" of %d names", st.Nlink)
			}
			if root == b.root && info.Mode().IsRegular() {
				text, err := os.ReadFile(p)
				must(b.t, err)
				all[p] += fmt.Sprintf(" %x", sha256.Sum256(text))
			}
			return nil
		}))
	}
	return all
}

// dials reports whether the folder is of the instance that dials a strange port.
func (b *box) dials(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, "i-") && name != b.other && filepath.Base(filepath.Dir(path))[0] == 'i'
}

// holds lists the files of others that the VMM has open.
func (b *box) holds() []string {
	var bad []string
	memories := map[string]bool{} // of the other VMM's guest
	for fd, to := range openFiles("mvm:" + b.other + ":") {
		if isMemory(to) {
			memories[inode(fd)] = true
		}
	}
	for fd, to := range openFiles("mvm:" + b.id + ":") {
		own := strings.HasPrefix(to, b.data+"/") || strings.HasPrefix(to, b.run+"/") || strings.Contains(to, "/images/") || strings.HasPrefix(to, "/dev/") ||
			isMemory(to) && !memories[inode(fd)]
		if strings.HasPrefix(to, "/") && !own {
			bad = append(bad, "the VMM has "+to)
		}
	}
	return bad
}

// openFiles are what the processes have open that have the name among their arguments, by the
// paths of their descriptors.
func openFiles(name string) map[string]string {
	all := map[string]string{}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range lines {
		text, _ := os.ReadFile(p) // it may end meanwhile
		if !strings.Contains(string(text), name) {
			continue
		}
		fds, _ := filepath.Glob(filepath.Dir(p) + "/fd/*")
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil {
				all[fd] = to
			}
		}
	}
	return all
}

// isMemory reports whether it is a file in memory that a woken guest's memory is over.
func isMemory(path string) bool { return strings.HasPrefix(path, "/memfd:guest-memory") }

// inode names the file behind a descriptor; "": it is not there any more.
func inode(fd string) string {
	info, err := os.Stat(fd)
	if err != nil {
		return ""
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// What the agent does afterwards. It may fail: it is the attacker's own instance.

func (b *box) sleepWake() { b.tried(mvm.OpSleep, mvm.OpWake) }

func (b *box) coldStart() { b.tried(mvm.OpStop, mvm.OpStart) }

func (b *box) tried(ops ...mvm.OpKind) {
	for _, op := range ops {
		if _, err := b.try(b.id, op); err != nil {
			b.t.Logf("%s: %v", op, err)
		}
	}
}

// restart restarts the agent, which must come up, and waits until it has looked at all.
func (b *box) restart() {
	b.stop()
	b.start()
	testenv.Eventually(b.t, patience, func() error {
		if i := b.get(b.id); i.Op != nil {
			return fmt.Errorf("it is busy with %s", i.Op.Kind)
		}
		return nil
	})
}

// execute has the guest write to its console, and say who it is: not the other.
func (b *box) execute() {
	b.t.Helper()
	_, _ = b.exec(b.id, "sh", "-c", "echo '"+rootText+"' >/dev/console")
	got, err := b.exec(b.id, "cat", "/data/who")
	if err == nil && got == otherText {
		b.t.Error("a command ran in the other tenant's guest")
		b.table = append(b.table, "REACHED the other tenant's guest by exec:")
	}
}

// gc is for an agent whose images are its own: it removes those that others need.
func (b *box) gc() {
	if b.split == nil {
		return
	}
	if _, err := b.client.NodeGC(b.ctx()); err != nil {
		b.t.Logf("gc: %v", err)
	}
}

// tryAll does all that an agent does with an instance, after all that was done to it.
func (b *box) tryAll() {
	for _, f := range []func(){b.sleepWake, b.restart, b.execute, b.coldStart} {
		f()
	}
	for _, what := range b.check() {
		b.t.Errorf("in the end: %s", what)
	}
}
