// Package durable_test runs mvm under strace, as its users do, and sees that what a
// command has done outlives a crash of the host from the moment that it returns.
package durable_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm/internal/testenv"
	"mvm/internal/testenv/durable"
)

// passing is what need not outlive a crash of the host.
var passing = []durable.Exception{
	{Path: "data/instances/*/console.log", Why: "output of a guest"},
	{Path: "data/instances/*/*.jsonl", Why: "output of a guest: a crash of the host may take its last lines"},
	{Path: "data/instances/.trash-*", Why: "it is being removed"},
	{Path: "data/instances/*/data.img", Why: "the guest syncs its disk itself"},
	{Path: "data/instances/*/fake-disk.json", Why: "the disk of a fake guest"},
	{Path: "data/instances/*/memory", Why: "memory of a guest that runs; a snapshot's is synced by the driver, which has a test of that"},
	{Path: "data/instances/*/previous", Why: "what the next sleep builds on while a guest runs: it ends with the guest, which a crash of the host ends"},
	{Path: "data/instances/*/previous/*", Why: "as above"},
	{Path: "data/instances/*/previous/*/map", Why: "as above"},
	{Path: "data/images/logs/*", Why: "output of a build"},
	{Path: "data/builds/*.log", Why: "output of a build"},
	{Path: "data/*.lock", Why: "a lock is of processes, and they end"},
	{Path: "data/images/lock", Why: "a lock"},
	{Path: "data/images/locks/*", Why: "locks"},
	{Path: "*/.lock", Why: "a lock"},
	{Path: "agent.log", Why: "output"},
	{Path: "one.signed", Why: "output, which can be made again"},
}

const patience = 60 * time.Second

// world is a host with an agent that is watched.
type world struct {
	t     *testing.T
	mvm   string
	dir   string
	run   string
	env   []string
	watch *durable.Watch
	agent *exec.Cmd
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, mvm: testenv.Mvm(t), dir: t.TempDir(), run: testenv.Dir(t)}
	w.env = append(os.Environ(), "MVM_CONFIG="+filepath.Join(w.dir, "agent.toml"), "MVM_DATA_DIR="+filepath.Join(w.dir, "data"), "MVM_RUN_DIR="+w.run,
		"MVM_SOCKET="+filepath.Join(w.run, "agent.sock"), "MVM_KEY_FILE="+filepath.Join(w.dir, "keys", "master.key"),
		"MVM_CERT_DIR="+filepath.Join(w.dir, "certs"), "MVM_DRIVER=fake", "MVM_NO_AUTOSTART=1", "NO_COLOR=1")
	w.file("agent.toml", "")
	return w
}

func (w *world) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// start runs an agent that is watched, and waits until it answers.
func (w *world) start(args ...string) {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	w.watch, w.agent = durable.Command(w.t, w.dir, passing, w.mvm, append([]string{"agent", "serve"}, args...)...)
	w.agent.Env, w.agent.Dir, w.agent.Stdout, w.agent.Stderr = w.env, w.dir, log, log
	if err := w.agent.Start(); err != nil {
		w.t.Fatal(err)
	}
	agent := w.agent
	w.t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	testenv.Eventually(w.t, patience, func() error {
		cmd := exec.Command(w.mvm, "version")
		cmd.Env = w.env
		out, err := cmd.CombinedOutput()
		if err == nil && !bytes.Contains(out, []byte("agent")) {
			err = os.ErrNotExist
		}
		return err
	})
	w.watch.Check(w.t, "agent serve")
}

func (w *world) stop() {
	w.t.Helper()
	if err := w.agent.Process.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	if err := w.agent.Wait(); err != nil {
		w.t.Fatalf("the agent ended with %v", err)
	}
	w.watch.Check(w.t, "the agent's end")
	if n := w.watch.Changes(w.t); n < 10 {
		w.t.Errorf("%d changes of the agent were seen: nothing was looked at", n)
	}
}

// do runs a command, and sees that what the agent has written for it is durable when it
// returns, and what the command itself has written.
func (w *world) do(args ...string) string {
	w.t.Helper()
	watch, cmd := durable.Command(w.t, w.dir, passing, w.mvm, args...)
	cmd.Env, cmd.Dir = w.env, w.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(w.dir, "agent.log"))
		w.t.Fatalf("mvm %s: %v\n%s\n%s", strings.Join(args, " "), err, out, log)
	}
	watch.Check(w.t, "mvm "+strings.Join(args, " ")+", itself")
	if w.watch != nil {
		w.watch.Check(w.t, "mvm "+strings.Join(args, " "))
	}
	return string(out)
}

func (w *world) find(pattern, in string) string {
	w.t.Helper()
	found := regexp.MustCompile(pattern).FindString(in)
	if found == "" {
		w.t.Fatalf("nothing like %s in %s", pattern, in)
	}
	return found
}

// TestWhatCommandsDoIsDurable goes through the commands that keep something.
func TestWhatCommandsDoIsDurable(t *testing.T) {
	w := newWorld(t)
	w.do("agent", "certs", "init", "--node-id", "node-1", "--host", "node.example")
	w.do("agent", "certs", "client", "laptop", "--out", "laptop")
	w.do("agent", "certs", "request", "--client", "ci")
	w.do("agent", "certs", "sign", "ci/request.pem", "--days", "1", "--yes")
	w.do("agent", "certs", "revoke", "client/laptop")
	w.do("agent", "certs", "rotate")
	w.do("desired", "keygen", "fleet.key")
	if err := os.Mkdir(filepath.Join(w.dir, "trusted"), 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(w.dir, "fleet.key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	w.file("trusted/fleet.pub", string(key))

	w.start("--node-id", "node-1")
	for _, path := range []string{"data/state.db", "keys/master.key"} {
		if _, err := os.Stat(filepath.Join(w.dir, path)); err != nil {
			t.Error(err)
		}
	}
	w.do("tenant", "create", "acme")
	w.do("tenant", "secrets", "set", "acme", "token=@"+w.file("secret", "hush"))
	w.do("pool", "create", "acme/p", "--flake", "builtin:minimal", "--mem-mib", "256", "--vcpus", "1", "--data-disk-mib", "0")
	w.do("pool", "build", "acme/p")
	i := w.find(`acme/p/i-[0-9a-f]{8}`, w.do("instance", "create", "acme/p"))
	w.do("instance", "start", i)
	w.do("instance", "sleep", i)
	w.do("instance", "wake", i)
	w.do("instance", "sleep", i)

	// A snapshot that is damaged is set aside, and brought back.
	w.file("data/fake-knobs.json", `{"fail": {"restore": "snapshot: the state is damaged"}}`)
	w.do("instance", "wake", i)
	if err := os.Remove(filepath.Join(w.dir, "data", "fake-knobs.json")); err != nil {
		t.Fatal(err)
	}
	snap := w.find(`s-[0-9a-f]{8}`, w.do("instance", "snapshots", "list", i))
	w.do("instance", "stop", i)
	w.do("instance", "snapshots", "restore", i, snap)
	w.do("instance", "wake", i)
	w.do("instance", "sleep", i)

	// What is there is taken up, and a signed state makes the rest.
	w.stop()
	w.env = append(w.env, "MVM_TRUSTED_KEYS="+filepath.Join(w.dir, "trusted"))
	w.start("--node-id", "node-1")
	w.do("instance", "wake", i)
	w.file("one.json", `{"schema_version": 1, "node_id": "node-1", "tenants": [{"tenant_id": "beta", "pools": [
		{"pool_id": "q", "flake_ref": "builtin:minimal", "instance_resources": {"mem_mib": 256, "vcpus": 1, "data_disk_mib": 64}, "desired_counts": {"running": 1}}]}]}`)
	w.do("desired", "sign", "one.json", "--key", "fleet.key", "--sequence", "1", "--out", "one.signed")
	w.do("agent", "reconcile", "--desired", "one.signed", "--keep")
	w.do("instance", "destroy", i, "--yes")
	w.do("node", "gc")
	w.do("tenant", "destroy", "acme", "--yes")
	w.stop()
}
