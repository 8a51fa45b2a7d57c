package vm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/testenv"
)

const production = "../../docs/production.md"

// newInstalled is a room in which mvm was installed as docs/production.md says.
func newInstalled(t *testing.T) *room {
	t.Helper()
	r := newRoom(t, map[string]string{"/srv/images/workload": filepath.Join(place(), "src", imgWorkload)})
	must(t, os.CopyFS(r.path("/root/mvm/packaging/"), os.DirFS("../../packaging")))
	must(t, os.Mkdir(r.path("/root/mvm/bin"), 0o755))
	for _, p := range []string{"mvm", "mvm-guest"} {
		must(t, image.Link(filepath.Join(place(), p), r.path("/root/mvm/bin/"+p)))
	}
	must(t, os.WriteFile(r.path("/root/pool.toml"), []byte("[tenant]\nid = \"acme\"\n"+
		strings.ReplaceAll(workerPool("workers", 1), imageRef(imgWorkload), "dir:/srv/images/workload")), 0o644))
	r.script(block(t, production, "Install", "sh", 0))
	must(t, os.WriteFile(r.path("/etc/mvm/agent.toml"), []byte(block(t, production, "Install", "toml", 0)), 0o644))
	r.script(block(t, production, "Install", "sh", 1))
	return r
}

// script runs commands as somebody would who reads them.
func (r *room) script(commands string) {
	r.t.Helper()
	must(r.t, os.WriteFile(r.path("/root/mvm/commands"), []byte("cd /root/mvm\n"+commands), 0o644))
	r.run("sh", "-eux", "/root/mvm/commands")
}

// pid is the main process of a unit, here and in the room.
func (r *room) pid(unit string) int {
	r.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(r.run("systemctl", "show", "-p", "MainPID", "--value", unit)))
	must(r.t, err)
	return n
}

// status is what the room says of one of its processes.
func (r *room) status(pid int) map[string]string {
	r.t.Helper()
	return fields(r.run("cat", fmt.Sprintf("/proc/%d/status", pid)))
}

// vmms are the processes of VMMs.
func (r *room) vmms() string {
	out, _ := r.try("pgrep", "-f", "^/usr/bin/qemu-system-x86_64 ") // it fails where there are none
	return strings.TrimSpace(out)
}

// TestUnits: what docs/production.md has installed does under a real systemd what it is
// there for, and its VMMs outlive the crashes and restarts of both units.
func TestUnits(t *testing.T) {
	t.Parallel()
	r := newInstalled(t)
	agent := r.status(r.pid("mvm-agent"))
	if agent["CapBnd"] != "0000000000000000" || agent["NoNewPrivs"] != "1" || agent["Seccomp"] != "2" || strings.HasPrefix(agent["Uid"], "0 ") {
		t.Errorf("the agent is %v, want a process that has no right and can get none", agent)
	}
	r.run("mvm", "deploy", "/root/pool.toml")
	id := r.only("mvm", "ps", "-o", "json")
	boot := r.run("mvm", "exec", id, "--", "cat", "/proc/sys/kernel/random/boot_id")
	still := func(when string) {
		t.Helper()
		testenv.Eventually(t, patience, func() error {
			got, err := r.try("mvm", "exec", id, "--", "cat", "/proc/sys/kernel/random/boot_id")
			if err != nil || got != boot {
				return fmt.Errorf("%s the guest is %q, %w; want %q", when, got, err, boot)
			}
			return nil
		})
	}
	r.bounded(r.vmms())

	r.run("mvm", "instance", "sleep", id)
	if got := r.vmms(); got != "" {
		t.Errorf("asleep it has VMM %s", got)
	}
	r.run("mvm", "instance", "wake", id)
	still("after a wake")

	vmm := r.vmms()
	r.run("mvm", "pool", "create", "acme/front", "--role", "gateway", "--flake", "dir:/srv/images/workload", "--publish", "127.0.0.1:18080:8080")
	connected := r.connects("127.0.0.1/18080")
	for _, unit := range []string{"mvm-agent", "mvm-hostd"} {
		r.crashes(unit)
		still("after crashes of " + unit)
		r.run("systemctl", "restart", unit)
		still("after a restart of " + unit)
	}
	if got := r.vmms(); got != vmm {
		t.Errorf("after crashes and restarts VMM %s is %s", vmm, got)
	}
	connected()
	r.run("mvm", "pool", "update", "acme/front", "--clear-publish")
	if out, err := r.try("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/18080"); err == nil || !strings.Contains(out, "refused") {
		t.Errorf("the port that is no longer published: %v, %s", err, out)
	}
	r.users(id)
	r.run("mvm", "tenant", "destroy", "acme", "--yes")
	r.refuses()
	r.run("systemctl", "stop", "mvm-hostd")
	if out := r.run("ip", "-o", "link"); r.vmms() != "" || strings.Contains(out, "br-tenant") {
		t.Errorf("left behind: VMMs %q, links\n%s", r.vmms(), out)
	}
}

// connects opens a connection to the address every few milliseconds, until the function
// that it returns is called. That fails the test if one was refused.
func (r *room) connects(at string) func() {
	r.t.Helper()
	loop := "while [ ! -e /root/connected ]; do if (exec 3<>/dev/tcp/" + at + "); then echo open; fi; sleep 0.02; done 2>&1"
	out := make(chan string, 1)
	go func() {
		got, err := r.try("bash", "-c", loop)
		if err != nil {
			got += err.Error()
		}
		out <- got
	}()
	return func() {
		r.t.Helper()
		r.run("touch", "/root/connected")
		got := <-out
		open := strings.Count(got, "open\n")
		if rest := strings.ReplaceAll(got, "open\n", ""); open < 20 || rest != "" {
			r.t.Errorf("while the units crashed and restarted %d connections were taken, and others not: %s", open, rest)
		}
		r.t.Logf("%d connections were taken while the units crashed and restarted", open)
	}
}

// crashes ends the unit's process more often than systemd starts one again by default.
func (r *room) crashes(unit string) {
	r.t.Helper()
	for range 6 {
		old := r.pid(unit)
		r.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", unit)
		testenv.Eventually(r.t, patience, func() error {
			if now := r.pid(unit); now == 0 || now == old {
				return fmt.Errorf("%s is not started again", unit)
			}
			return nil
		})
	}
}

// refuses fails the test unless an agent that may not start on this host says so once.
func (r *room) refuses() {
	r.t.Helper()
	must(r.t, os.WriteFile(r.path("/etc/mvm/agent.toml"), []byte("production = true\n"+block(r.t, production, "Install", "toml", 0)), 0o644))
	if out, err := r.try("systemctl", "restart", "mvm-agent"); err == nil {
		r.t.Errorf("an agent in production mode starts on this host: %s", out)
	}
	if out, err := r.try("systemctl", "is-failed", "mvm-agent"); err != nil {
		r.t.Errorf("an agent in production mode on this host is %s, want it failed", out)
	}
	if log := r.run("journalctl", "--no-pager", "-u", "mvm-agent"); strings.Count(log, "the host does not meet these conditions") != 1 || !strings.Contains(log, "no key is trusted") {
		r.t.Errorf("the journal is to say once why it does not start:\n%s", log)
	}
}

// only is the id of the one instance that the command lists.
func (r *room) only(command ...string) string {
	r.t.Helper()
	var is []mvm.Instance
	out := r.run(command...)
	if err := json.Unmarshal([]byte(out), &is); err != nil || len(is) != 1 {
		r.t.Fatalf("%v: %v, want one instance\n%s", command, err, out)
	}
	return is[0].ID
}

// bounded fails the test unless the VMM is in a cgroup of its own below hostd's, with a
// bound on its memory wherever the room has any to give.
func (r *room) bounded(pid string) {
	r.t.Helper()
	for line := range strings.Lines(r.run("cat", "/proc/"+pid+"/cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[1] != "memory" && f[1] != "pids" {
			continue // version 2 has no controllers here where version 1 has them
		}
		if !strings.HasPrefix(f[2], "/system.slice/mvm-hostd.service/mvm-i-") {
			r.t.Errorf("the VMM's cgroup of %s is %s", f[1], f[2])
		}
		if f[1] == "memory" {
			limit := strings.TrimSpace(r.run("cat", "/sys/fs/cgroup/memory"+f[2]+"/memory.limit_in_bytes"))
			if n, err := strconv.ParseInt(limit, 10, 64); err != nil || n > 2<<30 {
				r.t.Errorf("the VMM of 256 MiB may have %s bytes", limit)
			}
		}
	}
}

// users fails the test unless members of group mvm-users may use the API, and others not.
func (r *room) users(id string) {
	r.t.Helper()
	as := func(group string) []string {
		return []string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=" + group, "mvm", "ps", "-o", "json"}
	}
	if got := r.only(as("mvm-users")...); got != id {
		r.t.Errorf("a member of mvm-users sees %q, want %q", got, id)
	}
	if out, err := r.try(as("nogroup")...); err == nil || strings.Contains(out, id) {
		r.t.Errorf("somebody else gets %q, %v; want no answer", out, err)
	}
}
