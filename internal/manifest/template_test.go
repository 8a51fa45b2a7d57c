package manifest_test

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/manifest"
)

func template(t testing.TB, name string) manifest.Template {
	t.Helper()
	tpl, err := manifest.FindTemplate(name, "")
	if err != nil {
		t.Fatal(err)
	}
	return tpl
}

// The numbers that users rely on.
func TestOpenClawTemplate(t *testing.T) {
	got, notes, err := template(t, "openclaw").Deployment("alice", manifest.NewConfig{}, manifest.NewOptions{})
	if err != nil {
		t.Fatal(err)
	}
	quota := mvm.Quota{MaxVCPUs: 32, MaxMemMiB: 65536, MaxRunning: 16, MaxWarm: 8, MaxPools: 10, MaxInstancesPerPool: 32, MaxDiskGiB: 500}
	policy := mvm.RuntimePolicy{MinRunningSeconds: 300, MinWarmSeconds: 120, DrainTimeoutSeconds: 30, GracefulShutdownSeconds: 15, WarmAfterSeconds: 300, SleepAfterSeconds: 900,
		IdleCPUPercent: 10, IdleBytesPerMinute: 16384}
	workers := policy
	workers.IdleCPUPercent = 25
	want := mvm.Deployment{
		Tenant: mvm.TenantSpec{ID: "alice", Quota: &quota},
		Pools: []mvm.PoolSpec{
			{ID: "gateways", Role: mvm.RoleGateway, Profile: "minimal", Flake: "builtin:gateway", Policy: policy,
				Resources: mvm.Resources{VCPUs: 2, MemMiB: 1024}, Desired: mvm.Counts{Running: 1},
				Publish: []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 8080}},
				Routes: &mvm.RoutingTable{Routes: []mvm.Route{{Name: "users", Match: mvm.MatchRule{Port: 8080, PathPrefix: "/"},
					To: mvm.Target{PoolID: "workers", TargetPort: 18789, Selector: mvm.Selector{Kind: mvm.SelectByKey, From: "header:x-mvm-user"}}}}}},
			{ID: "workers", Role: mvm.RoleWorker, Profile: "minimal", Flake: "builtin:openclaw", Policy: workers,
				Resources: mvm.Resources{VCPUs: 2, MemMiB: 2048, DataDiskMiB: 2048}, Desired: mvm.Counts{Running: 1}},
		},
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if text := strings.Join(notes, "\n"); !strings.Contains(text, "builtin:openclaw") || !strings.Contains(text, "builtin:gateway") || !strings.Contains(text, "Nix") {
		t.Errorf("got notes %q, want them to say which images and why", notes)
	}
}

func TestEveryTemplateIsValid(t *testing.T) {
	for _, tpl := range manifest.Templates() {
		for _, flakes := range []bool{false, true} {
			o := manifest.NewOptions{BuildsFlakes: flakes}
			if tpl.Params[0].Required {
				o.Flake = "oci:example.org/x"
			}
			d, notes, err := tpl.Deployment("a", manifest.NewConfig{}, o)
			if err != nil || len(d.Pools) == 0 || len(notes) == 0 || tpl.About == "" {
				t.Errorf("%s: got %d pools, notes %q, %v", tpl.Name, len(d.Pools), notes, err)
			}
		}
	}
	var names []string
	for _, tpl := range manifest.Templates() {
		names = append(names, tpl.Name)
	}
	if diff := cmp.Diff([]string{"openclaw", "minimal", "web"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err := manifest.FindTemplate("openclow", "")
	if !mvm.IsKind(err, mvm.KindNotFound) || !strings.Contains(err.Error(), "openclaw, minimal") || !strings.Contains(err.Error(), "did you mean openclaw?") {
		t.Errorf("got %v, want not found with the names there are", err)
	}
}

func TestWhichImage(t *testing.T) {
	const theirs = "github:openclaw/nix-openclaw"
	for _, c := range []struct {
		name, template, config, flag string
		buildsFlakes                 bool
		gateways, workers            string
	}{
		{"the template's", "openclaw", "", "", true, theirs, theirs},
		{"built in without Nix", "openclaw", "", "", false, "builtin:gateway", "builtin:openclaw"},
		{"the config's before the template's", "openclaw", "git+https://x/y", "", true, "git+https://x/y", "git+https://x/y"},
		{"a flake that was asked for stays without Nix", "openclaw", "path:/x", "", false, "path:/x", "path:/x"},
		{"the flag before the config", "openclaw", "path:/x", "dir:/img", true, "builtin:gateway", "dir:/img"},
		{"the flag, another image", "openclaw", "", "oci:example.org/x", false, "builtin:gateway", "oci:example.org/x"},
		{"minimal", "minimal", "", "", true, "builtin:gateway", "builtin:minimal"},
	} {
		var config manifest.NewConfig
		if c.config != "" {
			config.Params = map[string]any{"image": c.config}
		}
		d, notes, err := template(t, c.template).Deployment("a", config,
			manifest.NewOptions{Flake: c.flag, BuildsFlakes: c.buildsFlakes})
		if err != nil {
			t.Fatal(err)
		}
		if g, w := d.Pools[0].Flake, d.Pools[1].Flake; g != c.gateways || w != c.workers {
			t.Errorf("%s: got %s and %s, want %s and %s", c.name, g, w, c.gateways, c.workers)
		}
		if !strings.Contains(notes[0], c.workers) {
			t.Errorf("%s: got notes %q, want them to name %s", c.name, notes, c.workers)
		}
	}
}

const newConfig = `
[secrets]
anthropic_key  = { file = "./secrets/anthropic.key" }

[overrides]
flake = "path:."
host_services = [11434]

[overrides.workers]
vcpus = 4
mem_mib = 4096
data_disk_mib = 0
instances = 3
warm = 0
env = { MODEL = "stub/m" }

[overrides.gateways]
publish = ["0.0.0.0:8080:8080"]
`

func TestNewConfig(t *testing.T) {
	dir := t.TempDir()
	secret := write(t, filepath.Join(dir, "secrets", "anthropic.key"), "sk\n")
	path := write(t, filepath.Join(dir, "new.toml"), newConfig)
	tpl := template(t, "openclaw")
	c, files, err := tpl.ReadNewConfig(path, manifest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{path, secret}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	netID := 7
	subnet := netip.MustParsePrefix("10.250.0.0/24")
	d, _, err := tpl.Deployment("alice", c, manifest.NewOptions{NetID: &netID, Subnet: subnet})
	if err != nil {
		t.Fatal(err)
	}
	if *d.Tenant.NetID != 7 || d.Tenant.Subnet != subnet || !cmp.Equal(d.Tenant.HostServices, []int{11434}) || string(d.Secrets["anthropic_key"]) != "sk" {
		t.Errorf("got tenant %+v and %d secrets", d.Tenant, len(d.Secrets))
	}
	w := d.Pools[1]
	if w.Resources != (mvm.Resources{VCPUs: 4, MemMiB: 4096}) || w.Desired != (mvm.Counts{Running: 3}) || w.Env["MODEL"] != "stub/m" || w.Flake != "path:"+dir {
		t.Errorf("got workers %+v", w)
	}
	if g := d.Pools[0]; len(g.Publish) != 1 || g.Publish[0].String() != "0.0.0.0:8080:8080" || g.Resources.MemMiB != 1024 {
		t.Errorf("got gateways %+v", g)
	}
}

// TestNewConfigChannel: a token and who may write are all that a bot needs; its messages go to
// the assistant that the examples of connect talk to.
func TestNewConfigChannel(t *testing.T) {
	read := func(string) ([]byte, error) { return []byte("42:x"), nil }
	tpl := template(t, "openclaw")
	make := func(text string) mvm.PoolSpec {
		t.Helper()
		c, err := tpl.ParseNewConfig("new.toml", []byte(text), read)
		if err != nil {
			t.Fatal(err)
		}
		d, _, err := tpl.Deployment("alice", c, manifest.NewOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d.Pools[0]
	}
	const token = "[secrets]\ntelegram_token = { file = \"t\" }\nbot2 = { file = \"t\" }\n"
	got := make(token + "[channels.telegram]\nallow = [\"123456789\"]\n").Channels
	want := []mvm.Channel{{Name: "telegram", Kind: mvm.ChannelTelegram, Secret: "telegram_token", Mode: mvm.ChannelPolling, Allow: []string{"123456789"},
		To: mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: "fixed:me"}, TargetPort: 8787, Path: "/telegram-webhook", Accept: mvm.AcceptDurable}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	family := make(token + "[channels.telegram]\nallow = [\"1\", \"2\"]\ntarget = { instance_selector = { by_key = { from = \"sender\" } } }\n" +
		"[channels.second]\nsecret = \"bot2\"\nallow = [\"*\"]\nproxy_port = 8082\n").Channels
	if len(family) != 2 || family[1].To.Selector.From != "sender" || family[1].To.TargetPort != 8787 || family[0].Secret != "bot2" {
		t.Errorf("got %+v", family)
	}
	for text, want := range map[string]string{
		token: "2:1: secrets.telegram_token: is for a bot, and no channel says who may write to it",
		"[secrets]\n[channels.telegram]\nallow = [\"1\"]\n":        "channels.telegram: needs the secret telegram_token",
		"[channels.telegram]\nkind = \"telegram\"\n":               "channels.telegram: allow is missing",
		"[channels.Bot]\nallow = [\"1\"]\n":                        "channels.Bot: channel id",
		"[channels.telegram]\nallow = [\"1\"]\ntoken = \"42:x\"\n": "channels.telegram.token: unknown key",
	} {
		if _, err := tpl.ParseNewConfig("new.toml", []byte(text), read); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := template(t, "minimal").ParseNewConfig("new.toml", []byte("[channels.bot]\nallow = [\"1\"]\n"), read); err == nil || !strings.Contains(err.Error(), "kind is missing") {
		t.Errorf("a template without a bot of its own: %v", err)
	}
}

// TestNewConfigKinds: a channel has the kind of its name; Discord needs a token and who may
// write, and the others what the platform and the worker need. Its gateway keeps messages, so
// it has a disk.
func TestNewConfigKinds(t *testing.T) {
	read := func(string) ([]byte, error) { return []byte("x"), nil }
	to := func(port int, path string) mvm.ChannelTarget {
		return mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: "fixed:me"}, TargetPort: port, Path: path}
	}
	const target = "target = { pool_id = \"workers\", instance_selector = { by_key = { from = \"fixed:me\" } }, target_port = 80, path = \"/in\" }\n"
	for text, want := range map[string]mvm.Channel{
		"[secrets]\ndiscord_token = { file = \"t\" }\n[channels.discord]\nallow = [\"7\"]\n": {
			Name: "discord", Kind: mvm.ChannelDiscord, Secret: "discord_token", Allow: []string{"7"}, To: to(8788, "/chat")},
		"[secrets]\nd2 = { file = \"t\" }\n[channels.bot]\nkind = \"discord\"\nsecret = \"d2\"\nallow = [\"7\"]\n": {
			Name: "bot", Kind: mvm.ChannelDiscord, Secret: "d2", Allow: []string{"7"}, To: to(8788, "/chat")},
		"[secrets]\ns = { file = \"t\" }\n[channels.slack]\nsecret = \"s\"\nallow = [\"U1\"]\nport = 8443\n" + target: {
			Name: "slack", Kind: mvm.ChannelSlack, Secret: "s", Mode: mvm.ChannelWebhook, Allow: []string{"U1"}, Port: 8443, To: to(80, "/in")},
		"[secrets]\ns = { file = \"t\" }\n[channels.line]\nsecret = \"s\"\nallow = [\"U1\"]\nport = 8443\n" + target: {
			Name: "line", Kind: mvm.ChannelLine, Secret: "s", Mode: mvm.ChannelWebhook, Allow: []string{"U1"}, Port: 8443, To: to(80, "/in")},
		"[secrets]\ns = { file = \"t\" }\nv = { file = \"t\" }\n[channels.whatsapp]\nsecret = \"s\"\nverify_secret = \"v\"\nallow = [\"49\"]\nport = 8443\n" + target: {
			Name: "whatsapp", Kind: mvm.ChannelWhatsApp, Secret: "s", VerifySecret: "v", Mode: mvm.ChannelWebhook, Allow: []string{"49"}, Port: 8443, To: to(80, "/in")},
		"[secrets]\ns = { file = \"t\" }\n[channels.webhook]\nsecret = \"s\"\nallow = [\"*\"]\nport = 8443\n" + target: {
			Name: "webhook", Kind: mvm.ChannelHook, Secret: "s", Mode: mvm.ChannelWebhook, Allow: []string{"*"}, Port: 8443, To: to(80, "/in")},
	} {
		for _, name := range []string{"openclaw", "minimal"} {
			if name == "minimal" && want.Kind == mvm.ChannelDiscord {
				continue // it has no target
			}
			tpl := template(t, name)
			c, err := tpl.ParseNewConfig("new.toml", []byte(text), read)
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			d, _, err := tpl.Deployment("alice", c, manifest.NewOptions{})
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			g := d.Pools[0]
			if diff := cmp.Diff([]mvm.Channel{want}, g.Channels); diff != "" || g.Resources.DataDiskMiB != 512 {
				t.Errorf("%s: disk %d MiB, channels (-want +got):\n%s", text, g.Resources.DataDiskMiB, diff)
			}
		}
	}
	for text, want := range map[string]string{
		"[secrets]\ndiscord_token = { file = \"t\" }\n":                                                  "add [channels.discord] with allow",
		"[secrets]\n[channels.discord]\nallow = [\"7\"]\n":                                               "channels.discord: needs the secret discord_token",
		"[channels.discord]\nallow = [\"@me\"]\n":                                                        "Developer Mode",
		"[channels.discord]\nallow = [\"7\"]\nport = 80\n":                                               "the gateway connects to Discord",
		"[channels.slack]\nallow = [\"U1\"]\n":                                                           "channels.slack: secret is missing",
		"[channels.slack]\nallow = [\"U1\"]\nsecret = \"s\"\n":                                           "channels.slack: target is missing",
		"[secrets]\ns = { file = \"t\" }\n[channels.slack]\nallow = [\"U1\"]\nsecret = \"s\"\n" + target: "needs the gateway's port",
	} {
		if _, err := template(t, "openclaw").ParseNewConfig("new.toml", []byte(text), read); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestNewConfigProblems(t *testing.T) {
	const text = `[overrides]
flake = ""
colour = 1
[overrides.worker]
mem_mib = 4096
[overrides.workers]
vcpus = 0
instances = 101
warm = -1
publish = ["8080"]
desired_running = 1
[pools]
`
	_, err := template(t, "openclaw").ParseNewConfig("new.toml", []byte(text), noSecrets)
	want := []string{
		"2:1: overrides.flake: image reference",
		"3:1: overrides.colour: unknown key",
		"4:12: overrides.worker: unknown key (did you mean workers?)",
		"7:1: overrides.workers.vcpus: 0 is not in 1..64",
		"8:1: overrides.workers.instances: 101",
		"9:1: overrides.workers.warm: -1",
		"10:1: overrides.workers.publish: is for pools with role gateway",
		"11:1: overrides.workers.desired_running: unknown key",
		"12:2: pools: unknown key",
	}
	got := problems(t, err)
	if len(got) != len(want) {
		t.Fatalf("got\n%s", strings.Join(got, "\n"))
	}
	for n := range want {
		if !strings.HasPrefix(got[n], want[n]) {
			t.Errorf("got  %s\nwant %s…", got[n], want[n])
		}
	}
}

func TestNewRefusesABadName(t *testing.T) {
	_, _, err := template(t, "openclaw").Deployment("Alice!", manifest.NewConfig{}, manifest.NewOptions{})
	if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "Alice!") {
		t.Errorf("got %v, want invalid", err)
	}
}
