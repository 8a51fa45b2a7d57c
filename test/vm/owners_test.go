package vm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"mvm/internal/api"
	serve "mvm/internal/host"
	"mvm/internal/store"
	"mvm/internal/testenv"
)

// second is another agent of the machine.
type second struct {
	serve.Options
	netns bool // in a network namespace of its own
}

// run runs the agent until it serves, or ends, and returns its exit code and its log; -1
// when it served. It is ended then.
func (s second) run(t *testing.T) (code int, log string) {
	t.Helper()
	dir := filepath.Dir(s.KeyFile)
	must(t, os.MkdirAll(dir, 0o711))
	o, err := json.Marshal(s.Options)
	must(t, err)
	out, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	defer out.Close()
	cmd := self(context.Background(), "agent", dir)
	cmd.Env = append(cmd.Env, envOptions+"="+string(o))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if s.netns {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
	}
	must(t, cmd.Start())
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	c := api.Dial(s.Socket)
	defer c.Close()
	code = -2
	testenv.Eventually(t, patience, func() error {
		select {
		case err := <-gone:
			code = exitCode(err)
			return nil
		default:
		}
		v, err := c.Version(t.Context())
		if err == nil && v.Version == "second" {
			code = -1
		} else if err == nil {
			err = os.ErrNotExist // the first agent, at the same socket
		}
		return err
	})
	if code == -1 {
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		must(t, <-gone)
	}
	b, err := os.ReadFile(out.Name())
	must(t, err)
	return code, string(b)
}

// TestTwoAgents: whatever another agent of the machine shares with this one, it either
// works beside it or exits with 4, and what this one has goes on, whether or not it runs.
func TestTwoAgents(t *testing.T) {
	h := newHost(t, "qemu")
	h.deploy("[tenant]\nid = \"acme\"\n" + workerPool("workers", 1))
	id := h.only("workers").ID
	boot := h.boot(id)
	pid := h.vmm(id)
	taps, err := testenv.NetworkLeft()
	must(t, err)
	all := filepath.Join(testenv.Dir(t), "second")
	n := 0
	try := func(name string, netns bool, driver string, serves bool, change func(*serve.Options)) {
		t.Helper()
		n++
		dir := filepath.Join(all, string(rune('a'+n)))
		o := h.options()
		o.Version.Version, o.Driver = "second", driver
		o.Socket, o.DataDir, o.RunDir, o.KeyFile = filepath.Join(dir, "s"), filepath.Join(dir, "d"), filepath.Join(dir, "r"), filepath.Join(dir, "k")
		if change != nil {
			change(&o)
		}
		code, log := second{o, netns}.run(t)
		if serves != (code == -1) || !serves && (code != 4 || !strings.Contains(log, h.dir)) {
			t.Errorf("%s, %s, own network namespace %v: it ended with %d\n%s", name, driver, netns, code, log)
		}
		if got := vmms(h.dir); got[id] != 1 {
			t.Errorf("after %s, %s: the first agent's VMMs are %v", name, driver, got)
		}
		if now, err := testenv.NetworkLeft(); err != nil || !slices.Equal(now, taps) {
			t.Errorf("after %s, %s: there is %v, %v; before %v", name, driver, now, err, taps)
		}
	}
	round := func(runs bool) {
		for _, driver := range []string{"qemu", "fake"} {
			for _, netns := range []bool{true, false} {
				try("the same run dir", netns, driver, false, func(o *serve.Options) { o.RunDir = h.options().RunDir })
				if runs {
					try("the same data dir", netns, driver, false, func(o *serve.Options) { o.DataDir = h.data })
				}
				try("nothing the same", netns, driver, netns || driver == "fake", nil)
			}
		}
	}
	round(true)
	h.sameGuest(id, boot)
	h.stop()
	round(false)
	h.start()
	h.sameGuest(id, boot)
	if now := h.vmm(id); now != pid {
		t.Errorf("the VMM was %d and is %d", pid, now)
	}
	h.wantOwned()
	uids(t, h, filepath.Join(all, "d", "d"))
}

// sameGuest fails the test unless the guest is the one that was booted.
func (h *host) sameGuest(id, boot string) {
	h.t.Helper()
	if got := h.boot(id); got != boot {
		h.t.Errorf("the guest is %q, want %q\n%s", got, boot, h.log())
	}
}

// uids fails the test when the agents give VMMs the same users.
func uids(t *testing.T, h *host, other string) {
	t.Helper()
	st, err := os.Stat(fmt.Sprintf("/proc/%d", h.vmm(h.only("workers").ID)))
	must(t, err)
	uid := int(st.Sys().(*syscall.Stat_t).Uid)
	s, err := store.OpenWith(filepath.Join(other, "state.db"), store.Options{})
	must(t, err)
	defer s.Close()
	base, used, err := s.UIDBase()
	must(t, err)
	if !used || uid >= base && uid < base+store.DefaultUIDCount || uid < store.DefaultUIDBase {
		t.Errorf("a VMM runs as user %d, and another agent gives users from %d on (%v)", uid, base, used)
	}
}
