package vm_test

import (
	"context"
	"encoding/json"
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

	"mvm"
	"mvm/internal/api"
	"mvm/internal/hostd"
	"mvm/internal/image"
	"mvm/internal/manifest"
	"mvm/internal/store"
	"mvm/internal/testenv"
)

// agentUID is the user of an agent without rights.
const agentUID = 64_500

// split is the process that has the rights of a host, and how its agent gets none.
type split struct {
	t       testing.TB
	dir     string // root's own
	program string // this one, where every user can run it
	hostd   *exec.Cmd
	gone    chan error
}

func (s *split) config() manifest.HostdConfig {
	return manifest.HostdConfig{Socket: filepath.Join(s.dir, "run", "h"), User: strconv.Itoa(agentUID)}
}

// drop has the agent run as its user, with no capability and none to be had.
func (s *split) drop(cmd *exec.Cmd) {
	id := strconv.Itoa(agentUID)
	cmd.Path = "/usr/bin/setpriv"
	cmd.Args = []string{"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "--no-new-privs",
		"--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--", s.program}
}

// newSplitHost is newHost with an agent that has no rights.
func newSplitHost(t testing.TB, without ...string) *host {
	t.Helper()
	testenv.NeedRoot(t)
	takeNetworks(t)
	dir := testenv.Dir(t)
	s := &split{t: t, dir: testenv.Dir(t)}
	s.program = filepath.Join(s.dir, "test")
	self, err := filepath.EvalSymlinks("/proc/self/exe")
	must(t, err)
	must(t, image.Link(self, s.program))
	must(t, os.Chmod(s.program, 0o755))
	h := &host{t: t, dir: dir, data: filepath.Join(dir, "d"), driver: "qemu", without: without, seen: map[string]bool{}, split: s}
	h.client = api.Dial(h.options().Socket)
	must(t, os.MkdirAll(h.data, 0o711))
	ownImages(t, filepath.Join(h.data, "images"))
	for _, d := range []string{h.dir, h.data} {
		must(t, os.Chown(d, agentUID, agentUID))
	}
	s.start(h)
	t.Cleanup(func() { s.stop(); h.leftOfSplit() })
	t.Cleanup(h.end)
	h.start()
	return h
}

// ownImages gives the agent a store of its own with the run's images.
func ownImages(t testing.TB, to string) {
	t.Helper()
	from := filepath.Join(place(), "images")
	must(t, filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, p)
		dst := filepath.Join(to, rel)
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(rel, "locks") || strings.HasPrefix(rel, "tmp") || rel == "lock" || strings.HasPrefix(rel, "parts"):
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir():
			if err := os.MkdirAll(dst, 0o755); err != nil {
				return err
			}
			return os.Chown(dst, agentUID, agentUID)
		}
		return image.Link(p, dst)
	}))
}

// start starts what has the rights.
func (s *split) start(h *host) {
	s.t.Helper()
	o, err := json.Marshal(h.options())
	must(s.t, err)
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(s.t, err)
	defer log.Close()
	cmd := self(context.Background(), "hostd", s.dir)
	cmd.Env = append(cmd.Env, envOptions+"="+string(o))
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = nil, log, log, nil
	cmd.Path = "/usr/bin/setpriv" // no more than its unit gives it
	cmd.Args = []string{"setpriv", "--no-new-privs", "--bounding-set=" + unitCapabilities(s.t), "--inh-caps=-all", "--", s.program}
	must(s.t, cmd.Start())
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	s.hostd, s.gone = cmd, gone
	client := hostd.NewClient(s.config().Socket)
	testenv.Eventually(s.t, patience, func() error {
		select {
		case err := <-gone:
			gone <- err
			s.t.Fatalf("hostd ended: %v\n%s", err, s.log())
		default:
		}
		return client.Hello(s.t.Context())
	})
}

// unitCapabilities are the capabilities of mvm-hostd.service, as setpriv takes them,
// as far as this machine has them.
func unitCapabilities(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("../../packaging/systemd/mvm-hostd.service")
	must(t, err)
	own, err := strconv.ParseUint(status(t, os.Getpid())["CapBnd"], 16, 64)
	must(t, err)
	set := "-all"
	for line := range strings.Lines(string(b)) {
		caps, ok := strings.CutPrefix(strings.TrimSpace(line), "CapabilityBoundingSet=")
		for _, c := range strings.Fields(caps) {
			name := strings.ToLower(strings.TrimPrefix(c, "CAP_"))
			if ok && (name != "sys_resource" || own&(1<<unix.CAP_SYS_RESOURCE) != 0) {
				set += ",+" + name
			}
		}
	}
	return set
}

// stop ends it in order, kill as a crash does.
func (s *split) stop() { s.end(syscall.SIGTERM) }
func (s *split) kill() { s.end(syscall.SIGKILL) }

func (s *split) end(sig syscall.Signal) {
	s.t.Helper()
	must(s.t, s.hostd.Process.Signal(sig))
	select {
	case err := <-s.gone:
		if sig == syscall.SIGTERM && err != nil {
			s.t.Errorf("hostd ended with %v\n%s", err, s.log())
		}
	case <-time.After(patience):
		s.t.Fatalf("hostd does not end\n%s", s.log())
	}
}

func (s *split) log() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(b)
}

// leftOfSplit looks for what hostd itself may have left.
func (h *host) leftOfSplit() {
	h.t.Helper()
	if left := testenv.Left(h.split.dir); len(left) > 0 {
		h.t.Errorf("left behind: %s", strings.Join(left, "; "))
	}
	if _, err := os.Lstat(h.split.config().Socket); err == nil {
		h.t.Error("hostd left its socket")
	}
	if h.t.Failed() {
		h.t.Logf("hostd's log:\n%s", h.split.log())
	}
}

// status is /proc/PID/status by field.
func status(t testing.TB, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	return fields(string(b))
}

// fields is the text of a status file by field.
func fields(status string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(status) {
		k, v, _ := strings.Cut(line, ":")
		out[k] = strings.Join(strings.Fields(v), " ")
	}
	return out
}

// powerless fails the test unless the process is the user's and has no right, nor a
// way to one.
func powerless(t testing.TB, what string, pid int, uids func(int) bool) {
	t.Helper()
	st := status(t, pid)
	for k, want := range map[string]string{"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapInh": "0000000000000000",
		"CapAmb": "0000000000000000", "NoNewPrivs": "1", "Groups": ""} {
		if what != "agent" && k == "NoNewPrivs" {
			continue // its seccomp filter has that effect
		}
		if st[k] != want {
			t.Errorf("the %s's %s is %q, want %q", what, k, st[k], want)
		}
	}
	ids := strings.Fields(st["Uid"] + " " + st["Gid"])
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err != nil || !uids(n) {
			t.Errorf("the %s's users and groups are %v", what, ids)
		}
	}
}

// TestAgentWithoutRights: an agent that is nobody on its host does all that one with
// root's rights does, and both halves may crash.
func TestAgentWithoutRights(t *testing.T) {
	h := newSplitHost(t)
	powerless(t, "agent", h.agent.Process.Pid, func(n int) bool { return n == agentUID })
	if st := status(t, h.agent.Process.Pid); st["CapBnd"] != "0000000000000000" {
		t.Errorf("the agent could get capabilities: %q", st["CapBnd"])
	}
	h.deploy(gatewayPool + workerPool("workers", 1) + workerPool("people", 0))
	id := h.only("workers").ID
	boot := h.boot(id)
	must(t, h.write(id, "/data/kept", "kept"))
	h.page(h.web(), "/hello")
	pid := h.vmm(id)
	powerless(t, "VMM", pid, func(n int) bool { return n >= store.DefaultUIDBase && n < store.DefaultUIDBase+store.DefaultUIDCount })
	if got := status(t, pid)["PPid"]; got != fmt.Sprint(h.split.hostd.Process.Pid) {
		t.Errorf("the VMM's parent is %s, want hostd", got)
	}
	stats, err := h.client.Stats(h.ctx(), mvm.Address{Instance: id})
	if err != nil || stats.CPU == 0 || stats.RSSBytes == 0 {
		t.Errorf("stats %+v, %v", stats, err)
	}
	h.sleepAndWake(id)
	h.still(id, boot)

	must(t, h.agent.Process.Kill()) // a crash of the agent
	h.died()
	h.start()
	h.still(id, boot)
	h.hostdCrashes(id, boot)
	h.testVerify()

	h.do(id, mvm.OpStop)
	h.do(id, mvm.OpStart)
	if got, err := h.exec(id, "cat", "/data/kept"); err != nil || got != "kept" {
		t.Errorf("the data disk holds %q, %v", got, err)
	}
	h.wantOwned()
}

func (h *host) boot(id string) string {
	h.t.Helper()
	boot, err := h.exec(id, "cat", "/proc/sys/kernel/random/boot_id")
	must(h.t, err)
	return boot
}

// vmm is the process of the instance's VMM.
func (h *host) vmm(id string) int {
	h.t.Helper()
	stats, err := h.client.Stats(h.ctx(), mvm.Address{Instance: id})
	must(h.t, err)
	return stats.PID
}

// still fails the test unless the guest is the one that was booted, and is reached.
func (h *host) still(id, boot string) {
	h.t.Helper()
	if got, err := h.exec(id, "cat", "/proc/sys/kernel/random/boot_id"); err != nil || got != boot {
		h.t.Errorf("the guest is %q, %v; want %q\n%s", got, err, boot, h.log())
	}
	h.page(h.web(), "/hello")
}

// sleepAndWake takes the instance to sleep, whose memory only its user and the agent
// can read, and wakes it from its snapshot.
func (h *host) sleepAndWake(id string) {
	h.t.Helper()
	h.do(id, mvm.OpSleep)
	segments, err := filepath.Glob(filepath.Join(h.data, "instances", id, "segments", "*"))
	must(h.t, err)
	if len(segments) == 0 {
		h.t.Error("it sleeps, and there are no segments of its memory")
	}
	for _, path := range segments {
		st, err := os.Stat(path)
		must(h.t, err)
		if own := st.Sys().(*syscall.Stat_t); own.Uid != agentUID || own.Gid != agentUID || own.Mode&0o7777 != 0o600 {
			h.t.Errorf("%s belongs to %d:%d, mode %o", path, own.Uid, own.Gid, own.Mode&0o7777)
		}
	}
	dir, err := os.Stat(filepath.Join(h.data, "instances", id))
	must(h.t, err)
	if dir.Mode().Perm() != 0o700 {
		h.t.Errorf("the folder of the memory has mode %v", dir.Mode())
	}
	if i := h.do(id, mvm.OpWake); i.Last == nil || i.Last.Kind != "warm" {
		h.t.Errorf("the wake was %+v, want a warm one\n%s", i.Last, h.log())
	}
}

// hostdCrashes: what runs goes on without it, and when it is back all goes on, also
// what was asked for meanwhile.
func (h *host) hostdCrashes(id, boot string) {
	h.t.Helper()
	pid := h.vmm(id)
	h.split.kill()
	if got, err := h.exec(id, "cat", "/proc/sys/kernel/random/boot_id"); err != nil || got != boot {
		h.t.Errorf("without hostd the guest is %q, %v; want %q", got, err, boot)
	}
	slept := make(chan error, 1)
	go func() {
		_, err := h.try(id, mvm.OpSleep)
		slept <- err
	}()
	h.split.start(h)
	if err := <-slept; err != nil {
		h.t.Errorf("sleep while hostd was away: %v\n%s", err, h.log())
	}
	if err := syscall.Kill(pid, 0); err == nil {
		h.t.Error("the VMM of an instance that sleeps lives")
	}
	h.do(id, mvm.OpWake)
	h.still(id, boot)
	h.wantOwned()
}
