package manifest_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mvm"
	"mvm/internal/manifest"
	"mvm/internal/manifest/render"
)

// ownTemplate has a parameter of every type, in every place that one can be.
const ownTemplate = `
version = 1
name = "team"
about = "a program of ours"
host_services = ["${model_port}"]
[params.image]
type = "image"
default = "dir:./images/own"
[params.command]
type = "string"
required = true
help = "what to run"
[params.mem]
type = "int"
default = 512
[params.pinned]
type = "bool"
default = true
[params.port]
type = "port"
default = 3000
[params.publish]
type = "list"
default = ["127.0.0.1:0:8080"]
[params.model_port]
type = "port"
[params.model]
type = "string"
[quota]
max_running = "${running}"
[params.running]
type = "int"
default = 3

[[pools]]
id = "gateways"
role = "gateway"
publish = "${publish}"
[[pools.routes]]
name = "app"
match_rule = { port = 8080, path_prefix = "/" }
target = { pool_id = "workers", instance_selector = "any", target_port = "${port}" }

[[pools]]
id = "workers"
flake = "${image}"
mem_mib = "${mem}"
pinned = "${pinned}"
env = { COMMAND = "${command}", PORT = "${port}", MODEL = "${model}", HOME_OF = "${HOME}", SHELL = "echo ${x:-y}" }
`

func own(t *testing.T, text string) manifest.Template {
	t.Helper()
	tpl, err := manifest.ReadTemplate(write(t, filepath.Join(t.TempDir(), "team.toml"), text))
	if err != nil {
		t.Fatal(err)
	}
	return tpl
}

// TestTemplateParameters: values go where the template says, with the types that it needs
// there; a key of a parameter that nobody sets is left out.
func TestTemplateParameters(t *testing.T) {
	tpl := own(t, ownTemplate)
	d, _, err := tpl.Deployment("a", manifest.NewConfig{}, manifest.NewOptions{Set: []string{"command=run me=now"}})
	if err != nil {
		t.Fatal(err)
	}
	w := d.Pools[1]
	want := map[string]string{"COMMAND": "run me=now", "PORT": "3000", "HOME_OF": "${HOME}", "SHELL": "echo ${x:-y}"}
	if diff := cmp.Diff(want, w.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if w.Flake != "dir:"+filepath.Join(filepath.Dir(tpl.Path), "images/own") || w.Resources.MemMiB != 512 || !w.Pinned || d.Tenant.HostServices != nil || d.Tenant.Quota.MaxRunning != 3 {
		t.Errorf("got %+v of %+v", w, d.Tenant)
	}
	if g := d.Pools[0]; g.Flake != "builtin:gateway" || g.Publish[0].String() != "127.0.0.1:0:8080" || g.Routes.Routes[0].To.TargetPort != 3000 {
		t.Errorf("got gateways %+v", g)
	}
	c, err := tpl.ParseNewConfig("c.toml", []byte("[params]\nmem = 1024\ncommand = \"x\"\nport = 81\n"), noSecrets)
	if err != nil {
		t.Fatal(err)
	}
	d, _, err = tpl.Deployment("a", c, manifest.NewOptions{Flake: "github:x/y", Set: []string{"port=80", "pinned=false", "publish=1:8080,2:8080", "model_port=11434", "model=m"}})
	if err != nil {
		t.Fatal(err)
	}
	w = d.Pools[1]
	if w.Resources.MemMiB != 1024 || w.Env["PORT"] != "80" || w.Env["MODEL"] != "m" || w.Pinned || w.Flake != "github:x/y" || d.Pools[0].Flake != "github:x/y" ||
		len(d.Pools[0].Publish) != 2 || !cmp.Equal(d.Tenant.HostServices, []int{11434}) {
		t.Errorf("got %+v of %+v", d.Pools, d.Tenant)
	}
}

// TestTemplateVersion: the version is that of the built-in image, and no other image's.
func TestTemplateVersion(t *testing.T) {
	tpl := template(t, "openclaw")
	for _, c := range []struct {
		set, image, want string
	}{
		{"version=2026.9.6", "", "builtin:openclaw@2026.9.6"},
		{"version=2026.9.6", "builtin:openclaw", "builtin:openclaw@2026.9.6"},
		{"", "builtin:openclaw@2026.8.1", "builtin:openclaw@2026.8.1"},
		{"version=2026.9.6", "builtin:openclaw@2026.8.1", "error: parameter version is for built-in images, and the image is builtin:openclaw@2026.8.1"},
		{"version=2026.9.6", "oci:x.example/openclaw:1", "error: parameter version is for built-in images, and the image is oci:x.example/openclaw:1"},
		{"version=a/b", "", `error: --set version: "a/b" is not a version`},
	} {
		d, notes, err := tpl.Deployment("a", manifest.NewConfig{}, manifest.NewOptions{Flake: c.image, Set: strings.Fields(c.set)})
		if says, wrong := strings.CutPrefix(c.want, "error: "); wrong {
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s of %q: got %v, want %s", c.set, c.image, err, says)
			}
			continue
		}
		if err != nil || d.Pools[1].Flake != c.want || d.Pools[0].Flake != "builtin:gateway" || !strings.Contains(notes[0], c.want) {
			t.Errorf("%s of %q: got %v, %q, %v, want %s", c.set, c.image, d.Pools, notes, err, c.want)
		}
	}
}

// TestTemplateValuesAreChecked: what is wrong with a value names its parameter.
func TestTemplateValuesAreChecked(t *testing.T) {
	tpl := own(t, ownTemplate)
	for set, want := range map[string]string{
		"":                                       "parameter command is not set (what to run)",
		"command=x mem":                          `--set "mem" is not NAME=VALUE`,
		"command=x prot=1":                       `no parameter "prot" (did you mean port?)`,
		"command=x port=http":                    `--set port: "http" is not a whole number`,
		"command=x port=0":                       "--set port: 0 is not in 1..65535",
		"command=x pinned=so":                    `--set pinned: "so" is not true or false`,
		"command=x image=":                       "--set image: image reference",
		"command=x mem=1":                        "pools[1].mem_mib: 1 is not in 128..1048576 (parameter mem)",
		"command=x publish=x":                    `pools[0].publish[0]: publish "x": the guest's port "x" is not a port in 1..65535 (use [[HOST:]PORT:]GUEST, such as 8080:80 or [::1]:8080:80) (parameter publish)`,
		"command=x mem=1 mem=2":                  "parameter mem is set twice",
		"command=" + strings.Repeat("x", 33<<10): "--set command: has 33792 bytes, more than 32768",
	} {
		_, _, err := tpl.Deployment("a", manifest.NewConfig{}, manifest.NewOptions{Set: strings.Fields(set)})
		if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: got %v, want %s", set, err, want)
		}
	}
	for text, want := range map[string]string{
		"[params]\nprot = 1\n":                                    "2:1: params.prot: unknown key (did you mean port?)",
		"[params]\nport = \"80\"\n":                               "2:1: params.port: is a string, must be an integer",
		"[params]\nimage = \"a:b\"\n[overrides]\nflake = \"x\"\n": "4:1: overrides.flake: the image is given twice",
	} {
		_, err := tpl.ParseNewConfig("c.toml", []byte(text), noSecrets)
		if got := problems(t, err); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s: got %q, want %s", text, got, want)
		}
	}
	_, _, err := tpl.Deployment("a", manifest.NewConfig{}, manifest.NewOptions{Set: []string{"command=x", "image=dir:./x"}, Remote: true})
	if err == nil || !strings.Contains(err.Error(), "the agent is on another one") {
		t.Errorf("a folder of this machine for an agent elsewhere: %v", err)
	}
}

// TestTemplateProblems: all that is wrong with a template is told with its place, before
// anybody uses it.
func TestTemplateProblems(t *testing.T) {
	const text = `version = 2
name = "Team"
about = ""
colour = 1
[params.Image]
type = "image"
[params.image]
type = "string"
[params.a]
type = "text"
[params.b]
type = "int"
default = "1"
[params.c]
type = "port"
default = 0
required = true
[params.e]
type = "version"
[params.d]
without_nix = "builtin:minimal"
type = "list"
default = [1]
[[pools]]
id = "${a}"
role = "gateway"
flake = "oci:x/y:${a}"
mem_mib = "${mem}"
[[pools.routes]]
name = "app"
match_rule = { port = 8080 }
target = { pool_id = "nobody", instance_selector = "any", target_port = 80 }
[channels.telegram]
secret = "x"
[channels.pigeon]
`
	_, err := manifest.ParseTemplate("t.toml", []byte(text))
	want := []string{
		"1:1: version: 2 is not in 1..1",
		"2:1: name: template id \"Team\"",
		"3:1: about: must be a line",
		"4:1: colour: unknown key",
		"5:9: params.Image: is not the name of a parameter",
		"8:1: params.image.type: of the parameter image must be image",
		"10:1: params.a.type: \"text\" is not one of image, string, int, bool, port, list, version",
		"13:1: params.b.default: is a string, must be an integer",
		"16:1: params.c.default: 0 is not in 1..65535",
		"18:9: params.e: is the version of the image, and there is no parameter image",
		"21:1: params.d.without_nix: is for parameters of type image",
		"23:1: params.d.default: has an integer in it",
		"24:3: pools[0]: id is missing",
		"25:1: pools[0].id: cannot be a parameter",
		"27:1: pools[0].flake: a parameter must be the whole value: \"${a}\"",
		"28:1: pools[0].mem_mib: there is no parameter mem",
		"32:12: pools[0].routes[0].target.pool_id: there is no pool \"nobody\"",
		"33:11: channels.telegram: target is missing",
		"35:11: channels.pigeon: kind",
	}
	got := problems(t, err)
	for n := range max(len(got), len(want)) {
		if n >= len(got) || n >= len(want) || !strings.HasPrefix(got[n], want[n]) {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if _, err := manifest.ParseTemplate("t.toml", make([]byte, manifest.MaxFileBytes+1)); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("a large file: %v", err)
	}
}

// TestOverridesReachEverything: a config file can change all that a pool of the template has,
// but for its name and role; channels have a table of their own.
func TestOverridesReachEverything(t *testing.T) {
	const text = `
[overrides.gateways]
flake = "dir:/gateway"
profile = "big"
vcpus = 3
mem_mib = 999
data_disk_mib = 99
instances = 2
warm = 3
sleeping = 4
min_running_seconds = 1
min_warm_seconds = 2
drain_timeout_seconds = 3
graceful_shutdown_seconds = 4
warm_after_seconds = 5
sleep_after_seconds = 6
idle_cpu_percent = 7
idle_bytes_per_minute = 8
quiet_connection_seconds = 9
pinned = true
critical = true
wake_catch_up = "skip"
peers = true
egress = ["10.1.0.0/16:443"]
limits = { cpu_percent = 1, cpu_weight = 2, disk_read_kib_per_second = 3, disk_write_kib_per_second = 4, disk_reads_per_second = 5, disk_writes_per_second = 6 }
env = { A = "b" }
publish = ["8081"]
auth = { mode = "none" }
[[overrides.gateways.routes]]
name = "all"
match_rule = { port = 8081, path_prefix = "/" }
target = { pool_id = "workers", instance_selector = { by_key = { from = "path" } }, target_port = 80 }
[[overrides.gateways.secret_scopes]]
integration = "x"
keys = ["K"]
[[overrides.gateways.integrations]]
name = "x"
checkpoint_cmd = "true"
`
	tpl := template(t, "openclaw")
	c, err := tpl.ParseNewConfig("c.toml", []byte(text), noSecrets)
	if err != nil {
		t.Fatal(err)
	}
	before, _, err := tpl.Deployment("a", manifest.NewConfig{}, manifest.NewOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // making one leaves nothing in the template or the config
		after, _, err := tpl.Deployment("a", c, manifest.NewOptions{})
		if err != nil {
			t.Fatal(err)
		}
		same := map[string]bool{"ID": true, "Role": true, "Channels": true}
		wantAllChanged(t, reflect.ValueOf(before.Pools[0]), reflect.ValueOf(after.Pools[0]), "PoolSpec", same)
		if r := after.Pools[0].Routes.Routes; len(r) != 1 || r[0].Auth == nil || r[0].To.Selector.From != "path" {
			t.Errorf("got routes %+v", r)
		}
		if diff := cmp.Diff(before.Pools[1], after.Pools[1], compare); diff != "" {
			t.Errorf("the other pool (-want +got):\n%s", diff)
		}
	}
	again, _, err := tpl.Deployment("a", manifest.NewConfig{}, manifest.NewOptions{})
	if diff := cmp.Diff(before, again, compare); err != nil || diff != "" {
		t.Errorf("without the config (-want +got):\n%s %v", diff, err)
	}
	for text, want := range map[string]string{
		"[[overrides.gateways.routes]]\nname = \"r\"\nmatch_rule = { port = 1 }\ntarget = { pool_id = \"w\", instance_selector = \"any\", target_port = 1 }\n": `there is no pool "w" in this file`,
		"[overrides.workers]\nauth = \"none\"\n": "is for pools with role gateway",
		"[overrides.workers]\nchannels = []\n":   "unknown key",
	} {
		_, err := tpl.ParseNewConfig("c.toml", []byte(text), noSecrets)
		if got := problems(t, err); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%s: got %q, want %s", text, got, want)
		}
	}
}

// wantAllChanged: no field, also of structs within, is as it was, but for those in same.
func wantAllChanged(t *testing.T, before, after reflect.Value, name string, same map[string]bool) {
	t.Helper()
	for n := range before.NumField() {
		field := before.Type().Field(n).Name
		a, b := before.Field(n), after.Field(n)
		switch {
		case a.Kind() == reflect.Struct:
			wantAllChanged(t, a, b, name+"."+field, same)
		case !same[field] && cmp.Equal(a.Interface(), b.Interface(), compare):
			t.Errorf("%s.%s can't be overridden: it is %v still", name, field, a)
		}
	}
}

// writtenIsRead: the manifest that is written of a deployment says the same.
func writtenIsRead(t *testing.T, d mvm.Deployment) {
	t.Helper()
	files := map[string]string{}
	for name := range d.Secrets {
		files[name] = "./" + name
	}
	text, err := render.Deployment(d, files)
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifest.ParseDeployment("written.toml", text, func(path string) ([]byte, error) {
		return d.Secrets[strings.TrimPrefix(path, "./")], nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff(d, got, compare, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text)
	}
}

// TestWriteSaysAll: a manifest is written with all that a deployment has.
func TestWriteSaysAll(t *testing.T) {
	const channels = `
[tenant]
id = "a"
[[pools]]
id = "workers"
flake = "builtin:minimal"
[[pools]]
id = "gateways"
role = "gateway"
flake = "builtin:gateway"
wake_catch_up = "skip"
publish = ["[::1]:80:8080,proxy-from=192.0.2.0/24"]
[pools.env]
"with space" = "tab\t quote\" back\\ line\n \u202e \u0085"
[[pools.routes]]
name = "r"
match_rule = { port = 8080, path_prefix = "/" }
target = { pool_id = "workers", instance_selector = { by_key = { from = "path" } }, target_port = 80 }
auth = { mode = "jwt", algorithm = "EdDSA", keys = ["k"], claim = "c", issuer = "i", audience = "a", leeway_seconds = 9, token = "header:x" }
trusted_proxies = ["10.0.0.0/8"]
[[pools.routes]]
name = "open"
match_rule = { port = 8081, path_prefix = "/" }
target = { pool_id = "workers", instance_selector = { by_key = { from = "path" } }, target_port = 80 }
auth = "none"
[[pools.routes]]
name = "proxied"
match_rule = { port = 8082, path_prefix = "/" }
target = { pool_id = "workers", instance_selector = { by_key = { from = "path" } }, target_port = 80 }
auth = { mode = "proxy", trusted = ["10.0.0.1/32"] }
[[pools.routes]]
name = "one"
match_rule = { port = 8083 }
target = { pool_id = "workers", instance_selector = { by_ip = "10.240.5.3" }, target_port = 80 }
[[pools.channels]]
name = "bot"
kind = "telegram"
secret = "token"
allow = ["1"]
api_root = "http://10.0.0.1"
proxy_port = 9000
target = { pool_id = "workers", instance_selector = "any", target_port = 80, path = "/x", accept = "durable" }
[secrets]
token = { file = "./token" }
k = { file = "./k" }
`
	for _, text := range []string{example, everything, channels} {
		d, err := manifest.ParseDeployment("m.toml", []byte(text), anySecret)
		if err != nil {
			t.Fatal(err)
		}
		writtenIsRead(t, d)
	}
	d, _, err := template(t, "openclaw").Deployment("alice", manifest.NewConfig{}, manifest.NewOptions{Subnet: netip.MustParsePrefix("10.250.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	writtenIsRead(t, d)
}

// TestTemplatesOfTheHost: files of the folder come first, and each says what is wrong with it.
func TestTemplatesOfTheHost(t *testing.T) {
	dir := t.TempDir()
	mine := strings.Replace(ownTemplate, `"team"`, `"web"`, 1)
	write(t, filepath.Join(dir, "web.toml"), mine)
	write(t, filepath.Join(dir, "team.toml"), ownTemplate)
	write(t, filepath.Join(dir, "other.toml"), ownTemplate)
	write(t, filepath.Join(dir, "minimal.toml"), "version = 1\n")
	write(t, filepath.Join(dir, "notes.txt"), "x")
	if err := os.Mkdir(filepath.Join(dir, "folder.toml"), 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := manifest.ListTemplates(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range all {
		s := l.Name
		if l.Path != "" {
			s += " file"
		}
		if l.Replaces {
			s += " replaces"
		}
		if l.Err != nil {
			s += " broken"
		}
		got = append(got, s)
	}
	want := []string{"folder file broken", "minimal file replaces broken", "openclaw", "other file broken", "team file", "web file replaces"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if tpl, err := manifest.FindTemplate("web", dir); err != nil || tpl.About != "a program of ours" {
		t.Errorf("got %q, %v, want the folder's", tpl.About, err)
	}
	if _, err := manifest.FindTemplate("minimal", dir); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "minimal.toml") {
		t.Errorf("got %v, want what is wrong with the file, not the built-in one", err)
	}
	if _, err := manifest.FindTemplate("other", dir); err == nil || !strings.Contains(err.Error(), `its name is "team"`) {
		t.Errorf("got %v", err)
	}
	if _, err := manifest.FindTemplate("teem", dir); !mvm.IsKind(err, mvm.KindNotFound) || !strings.Contains(err.Error(), "did you mean team?") {
		t.Errorf("got %v, want not found and what is near", err)
	}
	if tpl, err := manifest.FindTemplate(filepath.Join(dir, "other.toml"), dir); err != nil || tpl.Name != "team" {
		t.Errorf("by path: %q, %v", tpl.Name, err)
	}
	if all, err := manifest.ListTemplates(filepath.Join(dir, "none")); err != nil || len(all) != 3 {
		t.Errorf("no folder: %d templates, %v", len(all), err)
	}
}
