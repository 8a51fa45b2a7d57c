package hostd_test

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/network/fakenet"
	"mvm/internal/network/networktest"
	"mvm/internal/testenv"
)

// keeper keeps what it is asked to launch.
type keeper struct {
	vmproc.Launcher
	got vmproc.Launch
}

func (k *keeper) Launch(_ context.Context, l vmproc.Launch) (vmproc.Process, []string, error) {
	k.got = l
	return nil, nil, nil
}

// sent is the Launch as it goes to a server.
func sent(t *testing.T, l spawn.Launch) vmproc.Launch {
	var k keeper
	_, _, err := spawn.Over(&k).Launch(t.Context(), l)
	must(t, err)
	return k.got
}

// A caller that goes away while its VMM is made leaves none.
func TestCallerGoesAway(t *testing.T) {
	w := newWorld(t)
	l := w.launch("i-00000005")
	files := []*os.File{l.Files.Lock, l.Files.Log, l.Files.Memory, l.Files.QMP, l.Files.Console, l.Files.Channel, l.Files.Disks[0]}
	fds := make([]int, 0, len(files))
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	b := frame(hostd.OpStart, encoded(t, sent(t, l)))
	for range 5 {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: w.socket, Net: "unix"})
		must(t, err)
		_, _, err = conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
		must(t, err)
		must(t, conn.Close())
	}
	must(t, w.client.Hello(t.Context()))
	w.gone(l.Name)
}

// A server that is restarted knows the VMMs of the one before, and its networks are
// what they were; the VMM's end is seen without any.
func TestServerIsRestarted(t *testing.T) {
	w := newWorld(t)
	l := w.launch("i-00000006")
	p, _, err := w.vmms().Launch(t.Context(), l)
	must(t, err)
	defer p.Close()
	cfg := networktest.Config(networktest.Tenant("acme", 3, 3))
	first := w.client.Network()
	must(t, first.Apply(t.Context(), cfg))

	must(t, os.Remove(w.socket))
	n := fakenet.New()
	defer n.Close()
	_, socket := hostdtest.Serve(t, hostd.Options{Bounds: w.bounds(), Network: n})
	must(t, os.Symlink(socket, w.socket)) // the next server, where the first was

	f, err := first.OpenTAP(t.Context(), "acme", cfg.Tenants[0].Instances[0].ID, uid)
	must(t, err)
	must(t, f.Close())
	if removed, err := first.Sweep(t.Context()); err != nil || len(removed) > 0 {
		t.Errorf("sweep: %v, %v", removed, err)
	}
	pid, start := p.ID()
	again, err := w.vmms().Find(t.Context(), l.Name, vmproc.Hint{PID: pid, Start: start})
	must(t, err)
	defer again.Close()
	if st, err := again.Stats(); err != nil || st.RSS == 0 {
		t.Errorf("stats: %+v, %v", st, err)
	}
	names, err := w.vmms().List(t.Context(), w.bounds().RunRoot)
	if err != nil || len(names) != 1 || names[0] != l.Name {
		t.Errorf("list: %v, %v", names, err)
	}
	found, err := w.vmms().Survey(t.Context())
	if err != nil || found.Nothing(l.ID, l.UID) || !found.Nothing("i-ffffffff", l.UID+1) {
		t.Errorf("survey while it runs: %+v, %v", found, err)
	}
	must(t, again.Kill(t.Context()))
	if _, _, _, err := p.Wait(); err != nil {
		t.Errorf("the first holder's wait: %v", err)
	}
	w.gone(l.Name)
	must(t, w.vmms().Leave(t.Context(), l.Name, l.Cgroup, nil))
	if found, err = w.vmms().Survey(t.Context()); err != nil || !found.Nothing(l.ID, l.UID) {
		t.Errorf("survey after its end: %+v, %v", found, err)
	}
	if err := again.Kill(t.Context()); mvm.KindOf(err) == "" {
		t.Error("a VMM that is gone was killed")
	}
}

// A server that is away is waited for, and not for ever.
func TestServerIsAway(t *testing.T) {
	dir := testenv.Dir(t)
	began := time.Now()
	err := hostd.NewClient(dir + "/none").Hello(t.Context())
	if took := time.Since(began); !mvm.IsKind(err, mvm.KindUnavailable) || took > time.Minute {
		t.Errorf("hello: %v after %v, want unavailable", err, took)
	}
}

// The VMM is the user's, in its cgroup, and can be ended by nobody's number but its own.
func TestLaunch(t *testing.T) {
	w := newWorld(t)
	l := w.launch("i-00000007")
	p, _, err := w.vmms().Launch(t.Context(), l)
	must(t, err)
	defer p.Close()
	st, err := l.Files.Memory.Stat()
	must(t, err)
	if got := st.Sys().(*syscall.Stat_t); got.Uid != uid || got.Mode&0o7777 != 0o600 {
		t.Errorf("the memory belongs to user %d, mode %o", got.Uid, got.Mode&0o7777)
	}
	if _, _, err := w.vmms().Launch(t.Context(), spawn.Launch{}); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("launch of nothing: %v", err)
	}
	must(t, p.Kill(t.Context()))
	if _, sig, known, err := p.Wait(); err != nil || !known || sig != syscall.SIGKILL {
		t.Errorf("its end: %v, known %v, %v", sig, known, err)
	}
	must(t, w.vmms().Leave(t.Context(), l.Name, l.Cgroup, nil))
}
