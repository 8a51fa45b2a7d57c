package vm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mvm/internal/image"
	"mvm/internal/testenv"
)

const upgrade = "../../docs/upgrade.md"

// old is where a fresh room has the older mvm.
const old = "/root/mvm-old"

// TestDocs is somebody with a new Debian and the documents: an older mvm is installed and
// upgraded, a program of one's own is built and served, the host restarts and crashes, and
// the older mvm comes back. Commands and answers are those of the documents' code blocks.
func TestDocs(t *testing.T) {
	if *oldFlag == "" {
		t.Skip("it makes a new Debian and needs an older mvm: run make proof-docs")
	}
	r := &reader{room: newFresh(t, map[string]string{old: *oldFlag, "/usr/local/go": goRoot(t)})}
	must(t, os.CopyFS(r.path("/root/mvm/packaging/"), os.DirFS("../../packaging")))
	must(t, os.Mkdir(r.path("/root/mvm/bin"), 0o755))
	for _, p := range []string{"mvm", "mvm-guest"} {
		must(t, image.Link(filepath.Join(place(), p), r.path("/root/mvm/bin/"+p)))
	}
	r.install()
	must(t, os.WriteFile(r.path("/root/acme.toml"), []byte(acme), 0o644))
	r.follow("/root", "mvm deploy acme.toml\n")
	first := r.rest()

	r.follow("/root/mvm", block(t, upgrade, "Upgrade with systemd", "sh", 0))
	if got := r.states(); got != "run running, slp sleeping, warm warm" {
		t.Errorf("after the upgrade: %s", got)
	}
	if vmms := r.vmms(); vmms != first.vmms {
		t.Errorf("VMMs %q are %q after the upgrade", first.vmms, vmms)
	}
	r.remember("after the upgrade", first.pages)
	r.follow("/root", block(t, upgrade, "What happens to guests and images", "sh", 0))
	r.boots("after a build", "run", 2)

	r.page(ownProgram)

	asleep := r.rest()
	r.follow("/root", block(t, upgrade, "Restart the host", "sh", 0)+block(t, upgrade, "Restart the host", "sh", 1))
	r.ended()
	r.again()
	r.remember("after a restart of the host", asleep.pages)

	asleep = r.rest()
	r.follow("/root", block(t, upgrade, "Restart the host", "sh", 2))
	if got := r.vmms(); got != "" {
		t.Errorf("before a restart of the host VMMs %s are left", got)
	}
	r.remember("after a sleep of all", asleep.pages)

	lost := r.rest()
	r.halt()
	r.again()
	testenv.Eventually(t, patience, func() error {
		if got := r.states(); got != "run running, slp sleeping, warm running" {
			return fmt.Errorf("after a crash of the host: %s", got)
		}
		return nil
	})
	r.remember("after a crash of the host", map[string]string{"slp": lost.pages["slp"]})
	r.boots("after a crash of the host", "run", 3)
	r.boots("after a crash of the host", "warm", 3)

	r.follow("/root", block(t, upgrade, "Back to the old version", "sh", 0))
	if got := r.run("mvm", "version"); !strings.Contains(got, "agent  "+oldVersion(r)) {
		t.Errorf("the version after the way back: %s", got)
	}
	r.boots("after the way back", "run", 4)
	r.boots("after the way back", "warm", 4)
	r.boots("after the way back", "slp", 3)
	r.run("mvm", "tenant", "destroy", "acme", "--yes")
	if r.vmms() != "" {
		t.Errorf("VMMs are left: %s", r.vmms())
	}
}

// users have a worker each, which run, warm and slp say how it is left.
var users = []string{"run", "warm", "slp"}

// acme is a deployment whose workers serve /mem, which is another after each boot, and
// /starts, how often they have started on their disk.
const acme = `[tenant]
id = "acme"

[[pools]]
id = "gateways"
role = "gateway"
flake = "builtin:gateway"
vcpus = 1
mem_mib = 256
desired_running = 1
publish = ["127.0.0.1:8081:8080"]

[[pools.routes]]
name = "users"
match_rule = { port = 8080, path_prefix = "/" }
target = { pool_id = "workers", instance_selector = { by_key = { from = "header:x-mvm-user" } }, target_port = 8080 }

[[pools]]
id = "workers"
flake = "builtin:minimal"
vcpus = 1
mem_mib = 256
data_disk_mib = 64

[pools.env]
MVM_COMMAND = "mkdir -p /tmp/w; echo . >>/data/starts; sync; grep -c . /data/starts >/tmp/w/starts; cat /proc/sys/kernel/random/uuid >/tmp/w/mem; exec httpd -f -p 8080 -h /tmp/w"
MVM_READY_TCP = "8080"
`

// reader does in a room what the documents say.
type reader struct {
	*room
	cwd string
}

// follow runs commands of a document in a folder, and returns and shows what they print.
func (r *reader) follow(dir, commands string) string {
	r.t.Helper()
	if dir != "" {
		r.cwd = dir
	}
	must(r.t, os.WriteFile(r.path("/root/commands"), []byte("cd "+r.cwd+"\n"+commands+"pwd >/root/cwd\n"), 0o644))
	out, err := r.try("sh", "-eu", "/root/commands")
	r.t.Logf("%s$\n%s---\n%s", r.cwd, commands, out)
	if err != nil {
		r.t.Fatal(err)
	}
	if b, err := os.ReadFile(r.path("/root/cwd")); err == nil { // not after a restart
		r.cwd = strings.TrimSpace(string(b))
	}
	return out
}

// page follows a whole document. A block without a language is what the commands before it
// print, among other things.
func (r *reader) page(doc string) {
	r.t.Helper()
	b, err := os.ReadFile(doc)
	must(r.t, err)
	printed := ""
	for n, part := range strings.Split("\n"+string(b), "\n```") {
		language, code, _ := strings.Cut(part, "\n")
		switch {
		case n%2 == 0:
		case language == "sh":
			printed = r.follow("", code+"\n")
		case language == "" && !strings.Contains(printed, code):
			r.t.Errorf("%s: the commands do not print\n%s", doc, code)
		}
	}
}

// install installs the older mvm.
func (r *reader) install() {
	r.t.Helper()
	r.follow(old, block(r.t, production, "What the host needs", "sh", 0)+block(r.t, production, "Install", "sh", 0))
	must(r.t, os.WriteFile(r.path("/etc/mvm/agent.toml"), []byte(block(r.t, production, "Install", "toml", 0)), 0o644))
	r.follow(old, block(r.t, production, "Install", "sh", 1))
}

// resting is what there was before something happened to the host.
type resting struct {
	pages map[string]string // user -> /mem
	vmms  string
}

// rest leaves the users' workers running, warm and asleep.
func (r *reader) rest() resting {
	r.t.Helper()
	was := resting{pages: map[string]string{}}
	for _, user := range users {
		was.pages[user] = r.ask(user, "/mem")
	}
	r.run("mvm", "instance", "warm", "acme/workers@warm")
	r.run("mvm", "instance", "sleep", "acme/workers@slp")
	was.vmms = r.vmms()
	return was
}

// states are those of the workers.
func (r *reader) states() string {
	r.t.Helper()
	var all []string
	for _, user := range []string{"run", "slp", "warm"} {
		out := r.run("mvm", "instance", "info", "acme/workers@"+user, "-o", "json")
		_, state, _ := strings.Cut(out, `"state": "`)
		state, _, _ = strings.Cut(state, `"`)
		all = append(all, user+" "+state)
	}
	return strings.Join(all, ", ")
}

func (r *reader) ask(user, path string) string {
	r.t.Helper()
	return strings.TrimSpace(r.run("curl", "-sS", "--fail", "--retry", "30", "--retry-connrefused", "--retry-delay", "2", "--max-time", "300",
		"-H", "x-mvm-user: "+user, "http://127.0.0.1:8081"+path))
}

// remember fails the test unless the users' workers have the memory that they had.
func (r *reader) remember(when string, pages map[string]string) {
	r.t.Helper()
	for user, want := range pages {
		if got := r.ask(user, "/mem"); got != want {
			r.t.Errorf("%s the worker of %s has %q in memory, want %q\n%s", when, user, got, want, r.run("mvm", "why", "acme/workers@"+user))
		}
	}
}

// boots fails the test unless the user's worker has started so often on its disk.
func (r *reader) boots(when, user string, want int) {
	r.t.Helper()
	if got := r.ask(user, "/starts"); got != fmt.Sprint(want) {
		r.t.Errorf("%s the worker of %s has started %s times on its disk, want %d", when, user, got, want)
	}
}

// oldVersion is what the older mvm says of itself.
func oldVersion(r *reader) string {
	r.t.Helper()
	out, _ := r.try(old+"/bin/mvm", "version", "--no-autostart")
	return strings.Fields(out)[1]
}

func goRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}
