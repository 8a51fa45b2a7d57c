package host_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/host"
	"mvm/internal/hostd"
	"mvm/internal/owner"
	"mvm/internal/testenv"
)

// Whoever comes to a host that mvm hostd serves, and is not its agent, exits with 4:
// another hostd or an agent with the networks of its namespace, or its users, or its
// socket.
func TestBesideHostd(t *testing.T) {
	testenv.NeedRoot(t)
	dir := testenv.Dir(t)
	at := func(name string) host.Options {
		o := options(filepath.Join(dir, name))
		o.Driver, o.UIDBase = "qemu", owner.AnyUsers()
		o.Hostd.Socket, o.Hostd.User = filepath.Join(dir, name, "h"), "64502"
		must(t, os.MkdirAll(o.DataDir, 0o711))
		return o
	}
	o := at("1")
	text, err := json.Marshal(o)
	must(t, err)
	first := exec.Command("/proc/self/exe")
	first.Env = append(os.Environ(), envHostd+"="+string(text))
	first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	var log bytes.Buffer
	first.Stderr = &log
	must(t, first.Start())
	t.Cleanup(func() { _ = first.Process.Kill() })
	testenv.Eventually(t, time.Minute, func() error { return hostd.NewClient(o.Hostd.Socket).Hello(t.Context()) })

	var wg sync.WaitGroup
	for name, c := range map[string]struct {
		as     string
		inside bool // in its network namespace
		change func(*host.Options)
		want   string
	}{
		"hostd with its networks":   {envHostd, true, func(*host.Options) {}, "tenant networks"},
		"hostd with its users":      {envHostd, false, func(x *host.Options) { x.UIDBase = o.UIDBase }, "uid_base"},
		"hostd at its socket":       {envHostd, false, func(x *host.Options) { x.Hostd.Socket = o.Hostd.Socket }, "socket"},
		"a root agent with both":    {envAgent, true, func(x *host.Options) { x.Hostd.Socket = "" }, "tenant networks"},
		"another data dir's agent":  {envAgent, false, func(x *host.Options) { x.Hostd.Socket, x.UIDBase = o.Hostd.Socket, o.UIDBase }, "another data dir"},
		"the agent by another path": {envAgent, false, func(x *host.Options) { u := x.RunDir; *x = o; x.Socket, x.RunDir = u+"s", u }, "another run dir"},
	} {
		x := at(strings.ReplaceAll(name, " ", "-"))
		c.change(&x)
		text, err := json.Marshal(x)
		must(t, err)
		argv := []string{"/proc/self/exe"}
		if c.inside {
			argv = []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", first.Process.Pid), fmt.Sprintf("/proc/%d/exe", os.Getpid())}
		}
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
			cmd.Env = append(os.Environ(), c.as+"="+string(text))
			if !c.inside {
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
			}
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != 4 || !strings.Contains(string(out), c.want) {
				t.Errorf("%s ended with %v, want 4 and %q\n%s", name, err, c.want, out)
			}
		})
	}
	wg.Wait()
	must(t, hostd.NewClient(o.Hostd.Socket).Hello(t.Context()))
	must(t, first.Process.Signal(syscall.SIGTERM))
	if err := first.Wait(); err != nil {
		t.Errorf("hostd ended with %v\n%s", err, &log)
	}
}
