package manifest_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noSecrets is for manifests without secret files.
func noSecrets(path string) ([]byte, error) {
	return nil, fmt.Errorf("secret file %q asked for", path)
}

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func write(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// problems returns what is wrong, without the file's name, sorted as it is told.
func problems(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var ps manifest.Problems
	if !mvm.IsKind(err, mvm.KindInvalid) || !errors.As(err, &ps) {
		t.Fatalf("got %v of kind %s, want problems of kind invalid", err, mvm.KindOf(err))
	}
	var out []string
	for _, p := range ps {
		out = append(out, strings.TrimPrefix(p.Error(), p.File+":"))
	}
	return out
}

const example = `
[tenant]
id = "alice"
net_id = 5                 # optional
subnet = "10.240.5.0/24"   # optional

[[pools]]
id = "gateways"
role = "gateway"
profile = "minimal"
flake = "github:openclaw/nix-openclaw"
vcpus = 2
mem_mib = 1024
desired_running = 1

[[pools]]
id = "workers"
role = "worker"
flake = "github:openclaw/nix-openclaw"
mem_mib = 2048
data_disk_mib = 2048
desired_running = 1
desired_warm = 1

[secrets]
anthropic_key = { file = "./secrets/anthropic.key" }
`

func TestReadDeployment(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "alice.toml"), example)
	secret := write(t, filepath.Join(dir, "secrets", "anthropic.key"), "sk-1234\n")
	got, from, err := manifest.ReadDeployment(path, manifest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	netID := 5
	want := mvm.Deployment{
		Tenant: mvm.TenantSpec{ID: "alice", NetID: &netID, Subnet: netip.MustParsePrefix("10.240.5.0/24")},
		Pools: []mvm.PoolSpec{
			{ID: "gateways", Role: mvm.RoleGateway, Profile: "minimal", Flake: "github:openclaw/nix-openclaw",
				Resources: mvm.Resources{VCPUs: 2, MemMiB: 1024}, Desired: mvm.Counts{Running: 1}, Policy: mvm.DefaultRuntimePolicy()},
			{ID: "workers", Role: mvm.RoleWorker, Profile: "minimal", Flake: "github:openclaw/nix-openclaw",
				Resources: mvm.Resources{VCPUs: 2, MemMiB: 2048, DataDiskMiB: 2048}, Desired: mvm.Counts{Running: 1, Warm: 1},
				Policy: mvm.DefaultRuntimePolicy()},
		},
		Secrets: map[string][]byte{"anthropic_key": []byte("sk-1234")},
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{path, secret}, from.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(example))); from.Digest != want {
		t.Errorf("digest %s, want %s", from.Digest, want)
	}
}

const everything = `
[tenant]
id = "acme"
pinned = true
host_services = [4000, 4001]
[tenant.quota]
max_running = 3
max_warm = 0
[tenant.ceilings]
cpu_percent = 400

[[pools]]
id = "gateways"
role = "gateway"
flake = "builtin:gateway"
publish = ["127.0.0.1:0:8080", "9000:9000"]
critical = true

[[pools.routes]]
name = "telegram"
match_rule = { port = 8080, path_prefix = "/telegram", source_cidr = "149.154.160.0/20" }
target = { pool_id = "workers", instance_selector = "any", target_port = 8787 }

[[pools.routes]]
name = "users"
[pools.routes.match_rule]
port = 8080
path_prefix = "/"
[pools.routes.target]
pool_id = "workers"
instance_selector = { by_key = { from = "header:x-mvm-user" } }
target_port = 18789

[[pools]]
id = "workers"
flake = "builtin:minimal"
profile = "big"
desired_sleeping = 2
pinned = true
min_running_seconds = 0
min_warm_seconds = 1
drain_timeout_seconds = 2
graceful_shutdown_seconds = 3
warm_after_seconds = 4
sleep_after_seconds = 5
idle_cpu_percent = 6
idle_bytes_per_minute = 7
quiet_connection_seconds = 8
[pools.env]
TZ = "Europe/Berlin"
"with.dot" = "x"
[[pools.secret_scopes]]
integration = "telegram"
keys = ["BOT_TOKEN"]
[[pools.integrations]]
name = "telegram"
checkpoint_cmd = "/bin/save"
restore_cmd = "/bin/load"
timeout_seconds = 90
critical = true
`

func TestParseEveryKey(t *testing.T) {
	got, err := manifest.ParseDeployment("m.toml", []byte(everything), noSecrets)
	if err != nil {
		t.Fatal(err)
	}
	quota := mvm.DefaultQuota()
	quota.MaxRunning, quota.MaxWarm = 3, 0
	byKey := mvm.Selector{Kind: mvm.SelectByKey, From: "header:x-mvm-user"}
	want := mvm.Deployment{
		Tenant: mvm.TenantSpec{ID: "acme", Pinned: true, HostServices: []int{4000, 4001}, Quota: &quota, Ceilings: &mvm.Limits{CPUPercent: 400}},
		Pools: []mvm.PoolSpec{
			{ID: "gateways", Role: mvm.RoleGateway, Profile: "minimal", Flake: "builtin:gateway", Critical: true,
				Resources: mvm.DefaultResources(), Policy: mvm.DefaultRuntimePolicy(),
				Publish: []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 8080}, {Host: netip.MustParseAddrPort("127.0.0.1:9000"), Guest: 9000}},
				Routes: &mvm.RoutingTable{Routes: []mvm.Route{
					{Name: "telegram", Match: mvm.MatchRule{Port: 8080, PathPrefix: "/telegram", SourceCIDR: "149.154.160.0/20"},
						To: mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectAny}, TargetPort: 8787}},
					{Name: "users", Match: mvm.MatchRule{Port: 8080, PathPrefix: "/"}, To: mvm.Target{PoolID: "workers", Selector: byKey, TargetPort: 18789}},
				}}},
			{ID: "workers", Role: mvm.RoleWorker, Profile: "big", Flake: "builtin:minimal", Pinned: true,
				Resources: mvm.DefaultResources(), Desired: mvm.Counts{Sleeping: 2},
				Policy: mvm.RuntimePolicy{MinRunningSeconds: 0, MinWarmSeconds: 1, DrainTimeoutSeconds: 2, GracefulShutdownSeconds: 3, WarmAfterSeconds: 4, SleepAfterSeconds: 5,
					IdleCPUPercent: 6, IdleBytesPerMinute: 7, QuietConnectionSeconds: 8},
				Env:          map[string]string{"TZ": "Europe/Berlin", "with.dot": "x"},
				SecretScopes: []mvm.SecretScope{{Integration: "telegram", Keys: []string{"BOT_TOKEN"}}},
				Integrations: []mvm.Integration{{Name: "telegram", CheckpointCmd: "/bin/save", RestoreCmd: "/bin/load", Critical: true, TimeoutSeconds: 90}}},
		},
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSecretsTable(t *testing.T) {
	parse := func(tail string) mvm.Deployment {
		d, err := manifest.ParseDeployment("m.toml", []byte("tenant.id = \"a\"\n"+tail), noSecrets)
		if err != nil {
			t.Error(err)
		}
		return d
	}
	if got := parse(""); got.Secrets != nil {
		t.Errorf("without the table got %v, want nil: the tenant's secrets are left alone", got.Secrets)
	}
	if got := parse("[secrets]\n"); got.Secrets == nil || len(got.Secrets) != 0 {
		t.Errorf("with an empty table got %v, want none", got.Secrets)
	}
}

// pool is a manifest whose second line is of the tenant and whose line 5 is the first
// of a pool.
const pool = "[tenant]\nid = \"a\"\n\n[[pools]]\nid = \"p\"\nflake = \"builtin:minimal\"\n"

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name, toml string
		want       []string // each in order: line:column: key: text…
	}{
		{"syntax", "[tenant\nid = \"a\"\n", []string{"1:8: "}},
		{"empty", "", []string{"1:1: tenant is missing"}},
		{"duplicate key", "[tenant]\nid = \"a\"\nid = \"b\"\n", []string{"3:1: "}},
		{"tenant of a wrong type", "tenant = 3\n", []string{"1:1: tenant: is an integer, must be a table"}},
		{"unknown keys, with a hint", pool + "vcpu = 2\ncolour = \"red\"\n\"a b\" = 1\n",
			[]string{"7:1: pools[0].vcpu: unknown key (did you mean vcpus?)", "8:1: pools[0].colour: unknown key", "9:1: pools[0].a b: unknown key"}},
		{"unknown tables", "[tenant]\nid = \"a\"\n[secret]\nx = 1\n[tenant.quotas]\n",
			[]string{"3:2: secret: unknown key (did you mean secrets?)", "5:9: tenant.quotas: unknown key"}},
		{"zero and out of range", pool + "vcpus = 0\nmem_mib = 127\ndata_disk_mib = -1\ndesired_running = 101\nwarm_after_seconds = 9999999\n",
			[]string{"7:1: pools[0].vcpus: 0 is not in 1..64", "8:1: pools[0].mem_mib: 127 is not in 128..", "9:1: pools[0].data_disk_mib: -1", "10:1: pools[0].desired_running: 101 is not in 0..100", "11:1: pools[0].warm_after_seconds: 9999999"}},
		{"thresholds of idleness", pool + "idle_cpu_percent = 0\nidle_bytes_per_minute = 0\nquiet_connection_seconds = -1\n",
			[]string{"7:1: pools[0].idle_cpu_percent: 0 is not in 1..6400", "8:1: pools[0].idle_bytes_per_minute: 0 is not in 1..1073741824", "9:1: pools[0].quiet_connection_seconds: -1 is not in 0..604800"}},
		{"wrong types", pool + "vcpus = \"2\"\nmem_mib = 1.5\npinned = 1\nprofile = 1\npublish = \"x\"\nenv = []\nroutes = 1\n",
			[]string{"7:1: pools[0].vcpus: is a string, must be an integer", "8:1: pools[0].mem_mib: is a float", "9:1: pools[0].pinned: is an integer, must be a boolean",
				"10:1: pools[0].profile: is an integer, must be a string", "11:1: pools[0].publish: is a string, must be an array", "11:1: pools[0].publish: is for", "12:1: pools[0].env: is an array, must be a table", "13:1: pools[0].routes: is an integer", "13:1: pools[0].routes: is for"}},
		{"ids", "[tenant]\nid = \"A\"\n[[pools]]\nid = \"-p\"\nflake = \"x\"\n[[pools]]\nid = \"\"\nflake = \"x\"\n",
			[]string{"2:1: tenant.id: tenant id \"A\"", "4:1: pools[0].id: pool id \"-p\"", "7:1: pools[1].id: pool id \"\" is empty"}},
		{"missing keys", "[tenant]\n[[pools]]\n", []string{"1:2: tenant: id is missing", "2:3: pools[0]: id is missing", "2:3: pools[0]: flake is missing"}},
		{"pool twice", pool + "[[pools]]\nflake = \"x\"\nid = \"p\"\n", []string{"9:1: pools[1].id: pool \"p\" is given twice"}},
		{"role and profile", pool + "role = \"king\"\nprofile = \"A\"\n", []string{"7:1: pools[0].role: \"king\" is not one of gateway", "8:1: pools[0].profile: "}},
		{"flake", "[tenant]\nid=\"a\"\n[[pools]]\nid=\"p\"\nflake = \"a b\"\n", []string{"5:1: pools[0].flake: image reference"}},
		{"tenant", "[tenant]\nid = \"a\"\nnet_id = 4096\nsubnet = \"10.0.0.1/24\"\nhost_services = [0, 80, 80, 65536]\n",
			[]string{"3:1: tenant.net_id: 4096 is not in 0..4095", "4:1: tenant.subnet: subnet 10.0.0.1/24 has host bits set", "5:18: tenant.host_services[0]: 0 is not", "5:25: tenant.host_services[2]: port 80 is given twice", "5:29: tenant.host_services[3]: 65536"}},
		{"subnet", "[tenant]\nid = \"a\"\nsubnet = \"10.0.0.0\"\n", []string{"3:1: tenant.subnet: \"10.0.0.0\" is not a subnet such as"}},
		{"quota", "[tenant]\nid = \"a\"\n[tenant.quota]\nmax_vcpus = 0\nmax_warm = -1\nmax = 3\n",
			[]string{"4:1: tenant.quota.max_vcpus: 0 is not", "5:1: tenant.quota.max_warm: -1", "6:1: tenant.quota.max: unknown key"}},
		{"more pools than the quota", "[tenant]\nid=\"a\"\nquota = { max_pools = 1 }\n[[pools]]\nid=\"p\"\nflake=\"x\"\n[[pools]]\nid=\"q\"\nflake=\"x\"\n",
			[]string{"7:3: pools[1]: is pool 2, and the tenant's quota max_pools is 1"}},
		{"gateway keys on a worker", pool + "publish = [\"8080\"]\n", []string{"7:1: pools[0].publish: is for pools with role gateway"}},
		{"publish", pool + "role = \"gateway\"\npublish = [\"x\", \"1:2:3:4\", 5, \"127.0.0.1:80:80\", \"80:81\"]\n",
			[]string{"8:12: pools[0].publish[0]: publish \"x\"", "8:17: pools[0].publish[1]: ", "8:28: pools[0].publish[2]: is an integer", "8:50: pools[0].publish[4]: 127.0.0.1:80 is published twice"}},
		{"routes", pool + "role = \"gateway\"\n[[pools.routes]]\nname = \"r\"\n[pools.routes.match_rule]\npath_prefix = \"x\"\n[pools.routes.target]\npool_id = \"nope\"\ninstance_selector = \"all\"\ntarget_port = 0\n[[pools.routes]]\nname = \"r\"\nmatch_rule = {}\ntarget = {pool_id = \"p\", instance_selector = {by_key = {from = \"cookie:x\"}}}\n",
			[]string{"11:1: pools[0].routes[0].match_rule.path_prefix: must start with /", "13:1: pools[0].routes[0].target.pool_id: there is no pool \"nope\"", "14:1: pools[0].routes[0].target.instance_selector: ",
				"15:1: pools[0].routes[0].target.target_port: 0", "17:1: pools[0].routes[1].name: route \"r\" is given twice", "18:1: pools[0].routes[1].match_rule: has no criterion",
				"19:1: pools[0].routes[1].target: target_port is missing", "19:26: pools[0].routes[1].target.instance_selector: "}},
		{"auth", pool + "role = \"gateway\"\n[[pools.routes]]\nname = \"r\"\nmatch_rule = {port = 1}\ntarget = {pool_id = \"p\", instance_selector = {by_key = {from = \"path\"}}, target_port = 1}\n" +
			"[pools.routes.auth]\nmode = \"jwt\"\nalgorithm = 5\nkeys = [\"k\", 3]\nleeway_seconds = 301\nclaims = \"sub\"\ntrusted = [\"10.0.0.0\"]\n",
			[]string{"14:1: pools[0].routes[0].auth.algorithm: is an integer", "15:14: pools[0].routes[0].auth.keys[1]: is an integer", "16:1: pools[0].routes[0].auth.leeway_seconds: 301 is not in 1..300",
				"17:1: pools[0].routes[0].auth.claims: unknown key (did you mean claim?)", "18:12: pools[0].routes[0].auth.trusted[0]: \"10.0.0.0\" is not a range"}},
		{"auth that is not whole", pool + "role = \"gateway\"\n[[pools.routes]]\nname = \"r\"\nmatch_rule = {port = 1}\nauth = {mode = \"jwt\", algorithm = \"none\", keys = [\"k\"]}\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1}\n" +
			"[[pools.routes]]\nname = \"s\"\nmatch_rule = {port = 2}\nauth = \"jwt\"\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1}\n" +
			"[[pools.routes]]\nname = \"t\"\nmatch_rule = {port = 3}\nauth = {mode = \"proxy\", trusted = [\"0.0.0.0/0\"]}\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1}\n" +
			"[[pools.routes]]\nname = \"u\"\nmatch_rule = {port = 4}\nauth = {mode = \"jwt\", algorithm = \"EdDSA\", keys = [\"k\"]}\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1}\n[secrets]\n",
			[]string{"11:1: pools[0].routes[0].auth: auth algorithm \"none\" is not HS256 or EdDSA", "16:1: pools[0].routes[1].auth: \"jwt\" is not \"none\" or a table",
				"21:1: pools[0].routes[2].auth: auth trusted 0.0.0.0/0", "26:44: pools[0].routes[3].auth.keys: \"k\" is not one of the secrets"}},
		{"trusted proxies", pool + "role = \"gateway\"\n[[pools.routes]]\nname = \"r\"\nmatch_rule = {port = 1}\ntrusted_proxies = [\"10.0.0.0\"]\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1}\n" +
			"[[pools.routes]]\nname = \"s\"\nmatch_rule = {port = 2}\ntrusted_proxies = [\"0.0.0.0/0\"]\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1}\n",
			[]string{"11:20: pools[0].routes[0].trusted_proxies[0]: \"10.0.0.0\" is not a range", "16:1: pools[0].routes[1].trusted_proxies: trusted_proxies 0.0.0.0/0 allows every address"}},
		{"routes that match the same", pool + "role = \"gateway\"\n[[pools.routes]]\nname = \"a\"\nmatch_rule = {port = 1}\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1}\n[[pools.routes]]\nname = \"b\"\nmatch_rule = {port = 1}\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1}\n",
			[]string{"14:1: pools[0].routes[1].match_rule: matches the same as route \"a\""}},
		{"scopes and integrations", pool + "[[pools.secret_scopes]]\nintegration = \"A\"\nkeys = [\"../x\"]\n[[pools.secret_scopes]]\nintegration = \"b\"\n[[pools.integrations]]\nname = \"i\"\ncheckpoint_cmd = \"\"\n[[pools.integrations]]\nname = \"i\"\n",
			[]string{"8:1: pools[0].secret_scopes[0].integration: ", "9:9: pools[0].secret_scopes[0].keys[0]: secret name", "10:9: pools[0].secret_scopes[1]: keys is missing", "14:1: pools[0].integrations[0].checkpoint_cmd: ", "16:1: pools[0].integrations[1].name: integration \"i\" is given twice"}},
		{"channels", pool + "role = \"gateway\"\n[[pools.channels]]\nname = \"B\"\nkind = \"irc\"\nallow = [\"@a\", 5]\nmod = \"polling\"\n" +
			"target = {pool_id = \"nope\", instance_selector = {by_key = {from = \"path\"}}, path = \"x\"}\n[[pools.channels]]\nname = \"b\"\nkind = \"telegram\"\nsecret = \"t\"\nallow = []\n" +
			"target = {pool_id = \"p\", instance_selector = \"any\", target_port = 1, path = \"/\"}\n[secrets]\n",
			[]string{"8:9: pools[0].channels[0]: secret is missing", "9:1: pools[0].channels[0].name: channel id", "10:1: pools[0].channels[0].kind: kind \"irc\" is not supported", "11:10: pools[0].channels[0].allow[0]: allow: \"@a\"", "11:16: pools[0].channels[0].allow[1]: is an integer",
				"12:1: pools[0].channels[0].mod: unknown key (did you mean mode?)", "13:1: pools[0].channels[0].target: target_port is missing", "13:11: pools[0].channels[0].target.pool_id: there is no pool \"nope\"",
				"13:29: pools[0].channels[0].target.instance_selector: ", "14:9: pools[0].channels[1]: channel b: allow is empty", "17:1: pools[0].channels[1].secret: \"t\" is not one of the secrets"}},
		{"channels of workers", pool + "[[pools.channels]]\nname = \"b\"\nkind = \"telegram\"\nsecret = \"t\"\nallow = [\"*\"]\ntarget = {pool_id = \"p\", instance_selector = \"any\", target_port = 1, path = \"/\"}\n",
			[]string{"7:9: pools[0].channels: is for pools with role gateway"}},
		{"scope without its secret", pool + "[[pools.secret_scopes]]\nintegration = \"i\"\nkeys = [\"K\"]\n[secrets]\n", []string{"9:1: pools[0].secret_scopes[0].keys: \"K\" is not one of the secrets in this file"}},
		{"env", pool + "[pools.env]\nA = 1\n\"B=\" = \"x\"\n", []string{"8:1: pools[0].env.A: is an integer", "9:1: pools[0].env.B=: is not the name"}},
		{"secrets", "tenant.id = \"a\"\n[secrets]\nplain = \"hunter2\"\n\"../x\" = { file = \"x\" }\nnothing = {}\nmore = { file = \"x\", mode = 1 }\nnumber = { file = 1 }\n",
			[]string{"3:1: secrets.plain: must be { file", "4:1: secrets.../x: secret name", "5:1: secrets.nothing: file is missing", "6:10: secrets.more.file: secret file \"x\" asked for", "6:22: secrets.more.mode: unknown key", "7:12: secrets.number.file: is an integer"}},
		{"column counts characters", "tenant = { id = \"a\", \"ü\" = 1, x = 2 }\n", []string{"1:22: tenant.ü: unknown key", "1:31: tenant.x: unknown key"}},
		{"pools of a wrong type", "tenant.id = \"a\"\npools = [1, {id = \"p\", flake = \"f\"}, {id = \"p\", flake = \"f\"}]\n", []string{"2:10: pools[0]: is an integer, must be a table", "2:39: pools[2].id: pool \"p\" is given twice"}},
		{"deep tables", strings.Repeat("a.", 20) + "a = 1\n", []string{"1:31: nested more than 16"}},
		{"deep arrays", "a = " + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "\n", []string{"1:1: nested more than 16"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := manifest.ParseDeployment("m.toml", []byte(c.toml), noSecrets)
			got := problems(t, err)
			if len(got) != len(c.want) {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			for n, want := range c.want {
				if !strings.HasPrefix(got[n], want) {
					t.Errorf("got  %s\nwant %s…", got[n], want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error holds the value of a secret: %v", err)
			}
		})
	}
}

func TestFilesThatAreNoManifests(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{
		"no such file":       filepath.Join(dir, "none.toml"),
		"not a regular file": dir,
		"more than 1048576":  write(t, filepath.Join(dir, "big.toml"), strings.Repeat("#\n", 600_000)),
	} {
		_, _, err := manifest.ReadDeployment(path, manifest.Options{})
		if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want it to say %q of %s", err, name, path)
		}
	}
}
