package agent_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/testenv/quick"
)

// bait is what is outside an instance's folders and must stay as it is.
type bait struct {
	t       *testing.T
	dir     string
	reached atomic.Int64 // connections to its socket
}

const stranger = 54321

func newBait(t *testing.T) *bait {
	t.Helper()
	b := &bait{t: t, dir: quick.Dir(t)} // of the same file system, for hard links
	must(t, os.Mkdir(b.at("full"), 0o700))
	must(t, os.WriteFile(b.at("file"), []byte("precious"), 0o600))
	must(t, os.WriteFile(b.at("full/state"), []byte("precious"), 0o600))
	l, err := net.Listen("unix", b.at("sock"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.reached.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return b
}

func (b *bait) at(name string) string { return filepath.Join(b.dir, name) }

// arm sets the times back, so that a read shows, and returns a check that nothing was
// read, written, truncated, given away, chmodded, removed or connected to.
func (b *bait) arm() func() error {
	old := time.Now().Add(-48 * time.Hour)
	for _, p := range []string{"file", "full/state", "full"} {
		must(b.t, os.Chtimes(b.at(p), old, old.Add(time.Hour)))
	}
	before := b.look()
	return func() error {
		if n := b.reached.Load(); n > 0 {
			return fmt.Errorf("somebody connected to the socket outside, %d times", n)
		}
		if now := b.look(); now != before {
			return fmt.Errorf("outside was\n%s\nand is\n%s", before, now)
		}
		return nil
	}
}

func (b *bait) look() string {
	var s strings.Builder
	for _, p := range []string{"file", "full/state", "full", "new"} {
		var st syscall.Stat_t
		if err := syscall.Lstat(b.at(p), &st); err != nil {
			fmt.Fprintf(&s, "%s: %v\n", p, err)
			continue
		}
		fmt.Fprintf(&s, "%s: mode %o, owner %d:%d, size %d, read %d, written %d\n", p, st.Mode, st.Uid, st.Gid, st.Size, st.Atim.Sec, st.Mtim.Sec)
	}
	return s.String()
}

// plants put something foreign at the path, of which nothing is left there.
func (b *bait) plants() map[string]func(p string) error {
	return map[string]func(p string) error{
		"link to a file":     func(p string) error { return os.Symlink(b.at("file"), p) },
		"link to a folder":   func(p string) error { return os.Symlink(b.at("full"), p) },
		"link to a socket":   func(p string) error { return os.Symlink(b.at("sock"), p) },
		"link to a new file": func(p string) error { return os.Symlink(b.at("new"), p) },
		"pipe":               func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"hard link":          func(p string) error { return os.Link(b.at("file"), p) },
		"socket's hard link": func(p string) error { return os.Link(b.at("sock"), p) },
		"stranger's file": func(p string) error {
			return errors.Join(os.WriteFile(p, []byte("hers"), 0o666), os.Chown(p, stranger, stranger))
		},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// planted are the names in both folders; a snapshot's id stands for %s.
var planted = []string{"dir:data.img", "dir:data.img.new", "dir:memory", "dir:console.log", "dir:fake-disk.json",
	"dir:log.jsonl", "dir:log.jsonl.1", "dir:previous.jsonl", "dir:previous.jsonl.1", "dir:snapshots", "dir:snapshots/%s", "dir:snapshots/%s/map", "dir:snapshots/%s/device", "dir:set-aside", "dir:segments", "dir:previous", "dir:previous/%s",
	"run:v.sock_53", "run:v.sock_99", "run:fake-vmm.json", "run:vmm.json", "run:chan.sock"}

// TestNothingPlantedIsFollowed puts something foreign at every name in an instance's
// folders, as a VMM could that was taken over while its folders were its own, before
// every operation. Nothing outside is touched, no operation hangs, the agent starts
// again, and the instance can be destroyed.
func TestNothingPlantedIsFollowed(t *testing.T) {
	for _, name := range planted {
		t.Run(name, func(t *testing.T) {
			b := newBait(t)
			for what, plant := range b.plants() {
				h := newHost(t)
				h.start()
				i := h.instance()
				for _, op := range plantedOps() {
					path := h.plantAt(name, i.ID)
					err := os.ErrExist
					for errors.Is(err, os.ErrExist) { // the driver may write its own again in between
						must(t, os.RemoveAll(path))
						err = plant(path)
					}
					if err != nil && !errors.Is(err, os.ErrNotExist) {
						t.Fatal(err)
					}
					check := b.arm()
					err = op.do(h, i)
					if cerr := check(); cerr != nil {
						t.Errorf("%s, then %s (which says %v): %v", what, op.name, err, cerr)
					}
					if err != nil && strings.Contains(err.Error(), "deadline") {
						t.Errorf("%s, then %s: %v: it waited", what, op.name, err)
					}
					if op.name == "destroy" && err != nil {
						t.Errorf("%s, then destroy: %v", what, err)
					}
					must(t, os.RemoveAll(b.at("new")))
				}
				for _, dir := range []string{filepath.Join(h.dir, "instances", i.ID), filepath.Join(h.run, "i", i.ID)} {
					if _, err := os.Lstat(dir); !os.IsNotExist(err) {
						t.Errorf("%s: after destroy %s is there: %v", what, dir, err)
					}
				}
				h.stop()
			}
		})
	}
}

// plantAt is the path of the name; the parents that are missing stay so.
func (h *host) plantAt(name, id string) string {
	root, rel, _ := strings.Cut(name, ":")
	dir := filepath.Join(h.dir, "instances", id)
	if root == "run" {
		dir = filepath.Join(h.run, "i", id)
	}
	if strings.Contains(rel, "%s") {
		snap := "s-00000000"
		if i, err := h.a.Instance(ctx(h.t), mvm.Address{Instance: id}); err == nil && i.Snapshot != nil {
			snap = i.Snapshot.ID
		}
		rel = fmt.Sprintf(rel, snap)
	}
	return filepath.Join(dir, rel)
}

// loseState removes the device state, where its folders are not planted.
func loseState(h *host, id, snap string) {
	dir := filepath.Join(h.dir, "instances", id, "snapshots")
	for _, p := range []string{dir, filepath.Join(dir, snap)} {
		if st, err := os.Lstat(p); err != nil || !st.IsDir() {
			return
		}
	}
	_ = os.Remove(filepath.Join(dir, snap, "map"))
}

type plantedOp struct {
	name string
	do   func(h *host, i mvm.Instance) error
}

// plantedOps are all that is done in the folders, in an order in which each has
// something to do where the one before it worked.
func plantedOps() []plantedOp {
	operate := func(op mvm.OpKind) func(*host, mvm.Instance) error {
		return func(h *host, i mvm.Instance) error {
			_, err := h.a.Operate(ctx(h.t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: op}, nil)
			return err
		}
	}
	restart := func(h *host, _ mvm.Instance) error {
		h.stop()
		h.start()
		return nil
	}
	return []plantedOp{
		{"ask the host", func(h *host, i mvm.Instance) error {
			_, err := h.host.Ask(ctx(h.t), i.ID, guestproto.HostRequest{QueryInstanceStatus: &guestproto.InstanceName{TenantID: "acme", PoolID: "workers", InstanceID: i.ID}})
			return err
		}},
		{"open port 99", func(h *host, i mvm.Instance) error {
			c, err := h.host.Connect(ctx(h.t), i.ID, 99)
			if err == nil {
				c.Close()
				return errors.New("it is open")
			}
			return err
		}},
		{"exec", func(h *host, i mvm.Instance) error {
			_, err := h.a.Exec(ctx(h.t), mvm.Address{Instance: i.ID}, mvm.ExecSpec{Argv: []string{"cat", "/proc/version"}}, mvm.ExecIO{Stdout: &strings.Builder{}, Stderr: &strings.Builder{}})
			return err
		}},
		{"logs", func(h *host, i mvm.Instance) error {
			return h.a.Logs(ctx(h.t), mvm.Address{Instance: i.ID}, mvm.LogsSpec{Console: true}, func(mvm.LogLine) error { return nil })
		}},
		{"logs by the host", func(h *host, i mvm.Instance) error {
			return h.a.Logs(ctx(h.t), mvm.Address{Instance: i.ID}, mvm.LogsSpec{Previous: true}, func(mvm.LogLine) error { return nil })
		}},
		{"stats", func(h *host, i mvm.Instance) error {
			_, err := h.a.Stats(ctx(h.t), mvm.Address{Instance: i.ID})
			return err
		}},
		{"restart while it runs", restart},
		{"sleep", operate(mvm.OpSleep)},
		{"stats asleep", func(h *host, i mvm.Instance) error {
			_, err := h.a.Stats(ctx(h.t), mvm.Address{Instance: i.ID})
			return err
		}},
		{"restart while it sleeps", restart},
		{"wake", operate(mvm.OpWake)},
		{"stop", operate(mvm.OpStop)},
		{"resize", func(h *host, i mvm.Instance) error {
			s := worker("workers")
			s.Resources.DataDiskMiB, s.Resources.MemMiB = 32, 192
			_, err := h.a.UpdatePool(ctx(h.t), "acme", "workers", mvm.PoolUpdate{Spec: &s})
			return err
		}},
		{"start without a disk", func(h *host, i mvm.Instance) error { // it is made
			disk := filepath.Join(h.dir, "instances", i.ID, "data.img")
			if st, err := os.Lstat(disk); err == nil && st.Mode().IsRegular() {
				must(h.t, os.Remove(disk))
			}
			return operate(mvm.OpStart)(h, i)
		}},
		{"stop again", operate(mvm.OpStop)},
		{"start", operate(mvm.OpStart)},
		{"sleep again", operate(mvm.OpSleep)},
		{"wake from a state that is lost", func(h *host, i mvm.Instance) error { // it is set aside
			if now, err := h.a.Instance(ctx(h.t), mvm.Address{Instance: i.ID}); err == nil && now.Snapshot != nil {
				loseState(h, i.ID, now.Snapshot.ID)
			}
			return operate(mvm.OpWake)(h, i)
		}},
		{"node disk", func(h *host, _ mvm.Instance) error { _, err := h.a.NodeDisk(ctx(h.t)); return err }},
		{"node fsck", func(h *host, _ mvm.Instance) error {
			_, err := h.a.NodeCheck(ctx(h.t), mvm.NodeCheck{Repair: true, ReadData: true}, nil)
			return err
		}},
		{"node gc", func(h *host, _ mvm.Instance) error { _, err := h.a.NodeGC(ctx(h.t)); return err }},
		{"restart at the end", restart},
		{"destroy", operate(mvm.OpDestroy)},
	}
}

// TestFoldersOfOlderVersions: the folders were the VMM's. A running instance is taken up
// all the same, and they are the agent's then.
func TestFoldersOfOlderVersions(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	boot := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id")
	h.stop()
	h.giveAway(i)
	h.start()
	if got := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("boot id %s, want %s: it was booted again", got, boot)
	}
	for path, mode := range map[string]os.FileMode{"dir:": os.ModeDir | 0o700, "run:": os.ModeDir | 0o700, "dir:data.img": 0o600, "dir:memory": 0o600} {
		st, err := os.Lstat(h.plantIn(path, i.ID))
		if err != nil || st.Mode() != mode || st.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("%s is %v, %+v, want %v of root", path, err, st, mode)
		}
	}
	for _, op := range []mvm.OpKind{mvm.OpSleep, mvm.OpWake, mvm.OpStop, mvm.OpStart, mvm.OpDestroy} {
		h.do(i.ID, op)
	}
}

// giveAway makes the folders as older versions had them.
func (h *host) giveAway(i mvm.Instance) {
	h.t.Helper()
	for _, name := range []string{"dir:", "run:", "dir:data.img", "dir:memory"} {
		must(h.t, os.Lchown(h.plantIn(name, i.ID), i.UID, i.UID))
	}
}

// TestFoldersOfOlderVersionsThatWereUsed: what a VMM has put into its folders is
// refused by name when they are taken back, and costs no other instance anything.
func TestFoldersOfOlderVersionsThatWereUsed(t *testing.T) {
	b := newBait(t)
	for what, plant := range b.plants() {
		for _, name := range planted {
			if strings.Contains(name, "%s") || name == "run:v.sock_53" { // never the VMM's; made anew in any case
				continue
			}
			h := newHost(t)
			h.start()
			i := h.instance()
			other, err := h.a.CreateInstance(ctx(t), "acme", "workers", "")
			must(t, err)
			h.stop()
			h.giveAway(i)
			path := h.plantIn(name, i.ID)
			must(t, os.RemoveAll(path))
			must(t, plant(path))
			check := b.arm()
			h.start()
			if err := check(); err != nil {
				t.Errorf("%s at %s: %v", what, name, err)
			}
			got, err := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID})
			if err != nil || !strings.Contains(got.Problem, filepath.Base(path)) {
				t.Errorf("%s at %s: the problem is %q, %v; want it to name the file", what, name, got.Problem, err)
			}
			h.do(other.ID, mvm.OpStart)
			check = b.arm()
			h.do(i.ID, mvm.OpDestroy)
			if err := check(); err != nil {
				t.Errorf("%s at %s, destroyed: %v", what, name, err)
			}
			h.stop()
		}
	}
}

// plantIn is plantAt without an agent.
func (h *host) plantIn(name, id string) string {
	root, rel, _ := strings.Cut(name, ":")
	if root == "run" {
		return filepath.Join(h.run, "i", id, rel)
	}
	return filepath.Join(h.dir, "instances", id, rel)
}
