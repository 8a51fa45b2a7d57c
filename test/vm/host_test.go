package vm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/api"
	serve "mvm/internal/host"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
)

// patience bounds every wait for something that should be there soon. It costs
// nothing on a fast machine.
const patience = 3 * time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// networks are those of the run's network namespace, which one real agent has at a time.
// Agents of the fake driver run beside it.
var networks sync.Mutex

// takeNetworks waits until no other test has the networks, and gives them back at the
// end of this one. It must come before what the end is to wait for.
func takeNetworks(t testing.TB) {
	t.Helper()
	networks.Lock()
	t.Cleanup(networks.Unlock)
}

// host is one host with its agent.
type host struct {
	t       testing.TB
	dir     string
	data    string
	driver  string
	client  *api.Client
	agent   *exec.Cmd
	gone    chan error      // the agent's end
	without []string        // walls that VMMs go without
	ahead   time.Duration   // by which the agent's clock is ahead of the host's; see setClock
	seen    map[string]bool // ids of all instances that there were

	dns     []netip.Addr // name servers that the config has
	split   *split       // not nil: the agent has no rights
	unmount func()       // the disk of its data, where it has one of its own
}

// newHost starts an agent. At the end of the test all tenants are destroyed, and
// nothing may be left of them.
func newHost(t testing.TB, driver string) *host {
	t.Helper()
	return newHostOf(t, driver, 0)
}

// newHostOf is newHost with a disk of that many MiB for the agent's data, whose VMMs go
// without some walls.
func newHostOf(t testing.TB, driver string, diskMiB int, without ...string) *host {
	t.Helper()
	testenv.NeedRoot(t)
	if driver == "qemu" {
		takeNetworks(t)
	}
	dir := testenv.Dir(t)
	h := &host{t: t, dir: dir, data: filepath.Join(dir, "d"), driver: driver, without: without, seen: map[string]bool{}}
	h.client = api.Dial(h.options().Socket)
	must(t, os.MkdirAll(h.data, 0o711))
	if diskMiB > 0 {
		must(t, unix.Mount("disk", h.data, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=711", diskMiB)))
		h.unmount = func() { must(t, unix.Unmount(h.data, 0)) }
	}
	must(t, os.Symlink(filepath.Join(place(), "images"), filepath.Join(h.data, "images")))
	t.Cleanup(h.end)
	h.start()
	return h
}

func (h *host) options() serve.Options {
	o := serve.Options{Version: api.Version{Version: "test"}, GuestBinary: filepath.Join(place(), "mvm-guest"), AgentConfig: manifest.AgentConfig{
		Socket: filepath.Join(h.dir, "s"), DataDir: h.data, RunDir: filepath.Join(h.dir, "r"), KeyFile: filepath.Join(h.dir, "k"),
		Driver: h.driver, NodeID: "test", LogLevel: "info", LogFormat: "text", Registries: registries(),
		Nix: manifest.NixConfig{StoreMiB: 256, MemoryMiB: 512}, Trust: manifest.TrustConfig{JailWithout: h.without}}}
	o.DNS = h.dns
	if h.split != nil {
		o.Hostd = h.split.config()
	}
	return o
}

// start starts the agent and waits until it answers.
func (h *host) start() {
	h.t.Helper()
	o, err := json.Marshal(h.options())
	must(h.t, err)
	log, err := os.OpenFile(h.path("agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(h.t, err)
	defer log.Close()
	cmd := self(context.Background(), "agent", h.dir)
	cmd.Env = append(cmd.Env, envOptions+"="+string(o))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, log, log
	cmd.SysProcAttr = nil // the thread that starts it may end before the test
	if h.split != nil {
		h.split.drop(cmd)
	}
	must(h.t, cmd.Start())
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	h.agent, h.gone = cmd, gone
	testenv.Eventually(h.t, patience, func() error {
		select {
		case err := <-gone:
			gone <- err
			h.t.Fatalf("the agent ended: %v\n%s", err, h.log())
		default:
		}
		_, err := h.client.Version(h.ctx())
		return err
	})
}

// stop ends the agent in order; its instances go on.
func (h *host) stop() {
	h.t.Helper()
	if h.agent == nil {
		return
	}
	must(h.t, h.agent.Process.Signal(syscall.SIGTERM))
	if err := h.awaitEnd(); err != nil {
		h.t.Errorf("the agent ended with: %v\n%s", err, h.log())
	}
}

func (h *host) awaitEnd() error {
	h.t.Helper()
	select {
	case err := <-h.gone:
		h.agent = nil
		return err
	case <-time.After(patience):
		h.t.Fatalf("the agent did not end\n%s", h.log())
	}
	return nil
}

// killAt has the agent kill itself at the point; "" at none.
func (h *host) killAt(point string) {
	h.t.Helper()
	if point == "" {
		must(h.t, os.RemoveAll(h.path(killFile)))
		return
	}
	must(h.t, os.WriteFile(h.path(killFile), []byte(point), 0o600))
}

// died waits until the agent was killed by itself.
func (h *host) died() {
	h.t.Helper()
	err := h.awaitEnd()
	if e, ok := err.(*exec.ExitError); !ok || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL { //nolint:errorlint // as Wait returns it
		h.t.Fatalf("the agent was to die of SIGKILL, and ended with %v\n%s", err, h.log())
	}
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// ctx bounds one request to the agent.
func (h *host) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	h.t.Cleanup(cancel)
	return ctx
}

// log is the end of the agent's log.
func (h *host) log() string {
	b, err := os.ReadFile(h.path("agent.log"))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(b, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-40):], []byte("\n")))
}

// end destroys what there is, ends the agent and looks for what is left.
func (h *host) end() {
	if h.t.Failed() {
		h.t.Logf("end of the agent's log:\n%s", h.log())
	}
	h.killAt("")
	if h.agent == nil {
		h.start()
	}
	tenants, err := h.client.Tenants(h.ctx())
	must(h.t, err)
	h.instances()
	for _, ten := range tenants {
		if err := h.client.DestroyTenant(h.ctx(), ten.ID, nil); err != nil {
			h.t.Errorf("destroy tenant: %v", err)
		}
	}
	h.wantNothing()
	h.stop()
	h.client.Close()
	if h.unmount != nil {
		h.unmount()
	}
	testenv.Eventually(h.t, 10*time.Second, func() error {
		if left := testenv.Left(h.dir); len(left) > 0 {
			return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
		}
		return nil
	})
}

// deploy applies the manifest, which is done when every instance is ready.
func (h *host) deploy(text string) {
	h.t.Helper()
	h.deployWith(text, mvm.ApplyOptions{})
}

func (h *host) deployWith(text string, opts mvm.ApplyOptions) {
	h.t.Helper()
	d, err := manifest.ParseDeployment("test.toml", []byte(text), func(string) ([]byte, error) { return nil, os.ErrNotExist })
	must(h.t, err)
	if _, err := h.client.Apply(h.ctx(), d, opts, nil); err != nil {
		h.t.Fatalf("deploy: %v\n%s", err, h.log())
	}
	h.instances()
}

// instances lists all instances and remembers them.
func (h *host) instances() []mvm.Instance {
	h.t.Helper()
	all, err := h.client.Instances(h.ctx(), mvm.Address{})
	must(h.t, err)
	for _, i := range all {
		h.seen[i.ID] = true
	}
	return all
}

// only returns the one instance of the pool.
func (h *host) only(pool string) mvm.Instance {
	h.t.Helper()
	var of []mvm.Instance
	for _, i := range h.instances() {
		if i.Pool == pool {
			of = append(of, i)
		}
	}
	if len(of) != 1 {
		h.t.Fatalf("pool %s has %d instances, want 1", pool, len(of))
	}
	return of[0]
}

func (h *host) get(id string) mvm.Instance {
	h.t.Helper()
	i, err := h.client.Instance(h.ctx(), mvm.Address{Instance: id})
	must(h.t, err)
	return i
}

// do runs the operation to its end.
func (h *host) do(id string, op mvm.OpKind) mvm.Instance {
	h.t.Helper()
	i, err := h.try(id, op)
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", op, err, h.log())
	}
	return i
}

func (h *host) try(id string, op mvm.OpKind) (mvm.Instance, error) {
	return h.client.Operate(h.ctx(), mvm.Address{Instance: id}, mvm.OpRequest{Op: op}, nil)
}

// exec runs a command in the guest and returns what it prints.
func (h *host) exec(id string, argv ...string) (string, error) { return h.execIn(id, nil, argv...) }

// write makes a file in the guest.
func (h *host) write(id, path, text string) error {
	_, err := h.execIn(id, strings.NewReader(text), "tee", path)
	return err
}

func (h *host) execIn(id string, in io.Reader, argv ...string) (string, error) {
	var out, errs bytes.Buffer
	code, err := h.client.Exec(h.ctx(), mvm.Address{Instance: id}, mvm.ExecSpec{Argv: argv}, mvm.ExecIO{Stdin: in, Stdout: &out, Stderr: &errs})
	if err == nil && code != 0 {
		err = fmt.Errorf("%v exited with %d: %s", argv, code, errs.String())
	}
	return strings.TrimSpace(out.String()), err
}

// events counts the events of the kind about the instance.
func (h *host) events(id string, action mvm.Action) int {
	h.t.Helper()
	n := 0
	must(h.t, h.client.Events(h.ctx(), mvm.EventFilter{Instance: id}, func(e mvm.Event) error {
		if e.Action == action {
			n++
		}
		return nil
	}))
	return n
}
