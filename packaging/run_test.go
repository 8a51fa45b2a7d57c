package packaging_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/hostd"
	"mvm/internal/owner"
	"mvm/internal/testenv"
)

// agentUID is the user of the agent here.
const agentUID = 64_501

// host is a host whose two halves run as their units have them run, but for what only
// systemd can do, in a network namespace.
type host struct {
	t       *testing.T
	program string
	dir     string // the agent's
	root    string // root's
	hostd   *exec.Cmd
	users   int // uid_base: an mvm of this machine may have the usual ones
}

func newHost(t *testing.T) *host {
	t.Helper()
	testenv.NeedRoot(t)
	h := &host{t: t, dir: testenv.Dir(t), root: testenv.Dir(t)}
	testenv.NothingLeft(t, h.dir)
	testenv.NothingLeft(t, h.root)
	h.users = owner.AnyUsers()
	h.program = filepath.Join(h.root, "mvm") // where every user may run it
	h.copy(testenv.Mvm(t), h.program)
	h.check(os.WriteFile(filepath.Join(h.root, "agent.toml"), nil, 0o644))
	h.check(os.Mkdir(filepath.Join(h.dir, "keys"), 0o700))
	h.check(os.Chown(filepath.Join(h.dir, "keys"), agentUID, agentUID))
	h.check(os.Chown(h.dir, agentUID, agentUID))
	return h
}

func (h *host) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) copy(from, to string) {
	h.t.Helper()
	b, err := os.ReadFile(from)
	h.check(err)
	h.check(os.WriteFile(to, b, 0o755))
}

func (h *host) socket() string { return filepath.Join(h.root, "run", "h") }

func (h *host) env() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NO_COLOR=1", "MVM_NO_AUTOSTART=1", "MVM_CONFIG=" + filepath.Join(h.root, "agent.toml"),
		"MVM_DATA_DIR=" + filepath.Join(h.dir, "d"), "MVM_RUN_DIR=" + filepath.Join(h.dir, "r"), "MVM_SOCKET=" + filepath.Join(h.dir, "s"),
		"MVM_KEY_FILE=" + filepath.Join(h.dir, "keys", "k"), "MVM_HOSTD_SOCKET=" + h.socket(), "MVM_HOSTD_USER=" + strconv.Itoa(agentUID), "MVM_UID_BASE=" + strconv.Itoa(h.users)}
}

// start runs a half under setpriv, and returns how to end it.
func (h *host) start(name string, flags []string, args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := exec.Command("setpriv", append(append(flags, "--no-new-privs", "--inh-caps=-all", "--", h.program), args...)...)
	cmd.Env = h.env()
	log, err := os.OpenFile(filepath.Join(h.root, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	h.check(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if name == "hostd" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	h.check(cmd.Start())
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if h.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			h.t.Logf("%s's log:\n%s", name, b)
		}
	})
	return cmd
}

// capabilities are those of mvm-hostd.service as setpriv takes them, as far as this
// machine has them at all.
func (h *host) capabilities() string {
	h.t.Helper()
	var own uint64
	status, err := os.ReadFile("/proc/self/status")
	h.check(err)
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			own, err = strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			h.check(err)
		}
	}
	set := "--bounding-set=-all"
	for _, c := range strings.Fields(strings.Join(settings(h.t, "mvm-hostd.service")["CapabilityBoundingSet"], " ")) {
		if name := strings.ToLower(strings.TrimPrefix(c, "CAP_")); name != "sys_resource" || own&(1<<unix.CAP_SYS_RESOURCE) != 0 {
			set += ",+" + name
		}
	}
	return set
}

func (h *host) startHostd() {
	h.t.Helper()
	h.hostd = h.start("hostd", []string{h.capabilities()}, "hostd", "serve")
	testenv.Eventually(h.t, time.Minute, func() error { return hostd.NewClient(h.socket()).Hello(h.t.Context()) })
}

func (h *host) startAgent() {
	h.t.Helper()
	id := strconv.Itoa(agentUID)
	cmd := h.start("agent", []string{"--reuid=" + id, "--regid=" + id, "--clear-groups", "--bounding-set=-all"}, "agent", "serve")
	testenv.Eventually(h.t, time.Minute, func() error {
		_, err := h.try("node", "info")
		return err
	})
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	h.check(err)
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t" + id + "\t" + id + "\t" + id + "\t" + id} {
		if !strings.Contains(string(b), want) {
			h.t.Errorf("the agent's status lacks %q:\n%s", want, b)
		}
	}
}

func (h *host) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Env = h.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("mvm %v: %w\n%s", args, err, out)
	}
	return string(out), err
}

func (h *host) mvm(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	h.check(err)
	return out
}

// links are the interfaces of hostd's network namespace.
func (h *host) links() string {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), "nsenter", "--net=/proc/"+strconv.Itoa(h.hostd.Process.Pid)+"/ns/net", "ip", "-o", "link").CombinedOutput()
	if err != nil {
		h.t.Fatalf("list interfaces: %v\n%s", err, out)
	}
	return string(out)
}

// The capabilities of mvm-hostd.service are enough for the networks of tenants, and
// none for the agent. (With microVMs: TestAgentWithoutRights in test/vm.)
func TestBothHalves(t *testing.T) {
	h := newHost(t)
	h.startHostd()
	h.startAgent()
	h.mvm("tenant", "create", "acme", "--net-id", "7")
	if got := h.links(); !strings.Contains(got, "br-tenant-7") {
		t.Errorf("there is no bridge:\n%s", got)
	}
	if out := h.mvm("net", "verify"); !strings.Contains(out, "nothing is wrong") {
		t.Errorf("net verify: %s", out)
	}
	if out := h.mvm("doctor"); !strings.Contains(out, "mvm hostd does what needs root") {
		t.Errorf("doctor: %s", out)
	}
	h.mvm("tenant", "destroy", "acme", "--yes")
	if got := h.links(); strings.Contains(got, "br-tenant-7") {
		t.Errorf("the bridge is left:\n%s", got)
	}
	if out, err := h.try("agent", "serve"); err == nil || !strings.Contains(out, "belongs to user") {
		t.Errorf("an agent of root's on the state of another user: %v, %s", err, out)
	}
}
