package manifest_test

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mvm"
	"mvm/internal/manifest"
)

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

var remoteDefaults = manifest.RemoteConfig{CertDir: "/etc/mvm/certs", TrustDomain: "mvm", CertHours: 24, Rate: 20, Burst: 100, Connections: 256}

var trustDefaults = manifest.TrustConfig{TrustedKeys: "/etc/mvm/trusted_keys"}

func TestAgentDefaults(t *testing.T) {
	for name, src := range map[string]manifest.AgentSources{
		"nothing":        {},
		"file is absent": {File: filepath.Join(t.TempDir(), "none.toml")},
		"empty variable": {Lookup: env(map[string]string{"MVM_DATA_DIR": ""})},
	} {
		got, err := manifest.LoadAgentConfig(src)
		if err != nil {
			t.Fatal(err)
		}
		want := manifest.AgentConfig{Socket: "/run/mvm/agent.sock", DataDir: "/var/lib/mvm", RunDir: "/run/mvm", Driver: "qemu",
			KeyFile: "/etc/mvm/master.key", LogLevel: "info", LogFormat: "text", Remote: remoteDefaults, Trust: trustDefaults,
			Hostd: manifest.HostdConfig{User: "mvm"}, Reconcile: manifest.ReconcileConfig{Interval: 30 * time.Second}, Observe: manifest.ObserveConfig{AuditRetention: 90 * 24 * time.Hour},
			Memory: manifest.MemoryConfig{FreePercent: 5, StalledPercent: 10}, Ready: manifest.ReadyConfig{Percent: 10, TenantPercent: 50, Keep: time.Hour}, Snapshots: manifest.SnapshotConfig{Keep: 7 * 24 * time.Hour, PerInstance: 2, GiB: 20},
			Nix: manifest.NixConfig{Substituters: []string{"https://cache.nixos.org"}, StoreMiB: 4096, MemoryMiB: 4096}}
		if diff := cmp.Diff(want, got, compare, cmpopts.IgnoreUnexported(want)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got := got.Origin("data_dir"); got != "default" {
			t.Errorf("%s: got origin %q", name, got)
		}
	}
}

func TestAgentLayersAndOrigins(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "agent.toml"), `# the agent
data_dir = "/srv/file"
socket_group = "mvm"
log_level = "debug"
dns = ["9.9.9.9", "1.1.1.1"]
node_id = "node-1"
api_listen = ":7443"
cert_hours = 12
api_rate = 4
api_origins = ["https://console.example", "http://localhost:3000"]
reconcile_interval = 5
audit_retention_days = 2
metrics_listen = "127.0.0.1:9750"
memory_free_percent = 0
ready_memory_percent = 0
ready_minutes = 5
set_aside_days = 3
set_aside_gib = 0
production = true
key_credential = "mvm-master-key"
`)
	got, err := manifest.LoadAgentConfig(manifest.AgentSources{
		File:   file,
		Lookup: env(map[string]string{"MVM_DATA_DIR": "/srv/env", "MVM_LOG_LEVEL": "warn", "MVM_OTHER": "x", "MVM_API_RATE": "5", "MVM_CERT_DIR": "/srv/certs", "MVM_TRUSTED_KEYS": "/srv/keys"}),
		Flags:  map[string]string{"log_level": "error", "api_burst": "7"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := manifest.AgentConfig{Socket: "/run/mvm/agent.sock", SocketGroup: "mvm", DataDir: "/srv/env", RunDir: "/run/mvm", Driver: "qemu",
		KeyFile: "/etc/mvm/master.key", NodeID: "node-1", LogLevel: "error", LogFormat: "text",
		DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("1.1.1.1")}, Remote: remoteDefaults, Trust: trustDefaults,
		Hostd: manifest.HostdConfig{User: "mvm"}, Reconcile: manifest.ReconcileConfig{Interval: 5 * time.Second},
		Observe: manifest.ObserveConfig{MetricsListen: "127.0.0.1:9750", AuditRetention: 48 * time.Hour},
		Memory:  manifest.MemoryConfig{FreePercent: 0, StalledPercent: 10}, Ready: manifest.ReadyConfig{TenantPercent: 50, Keep: 5 * time.Minute}, Snapshots: manifest.SnapshotConfig{Keep: 3 * 24 * time.Hour, PerInstance: 2},
		Nix: manifest.NixConfig{Substituters: []string{"https://cache.nixos.org"}, StoreMiB: 4096, MemoryMiB: 4096}}
	want.Trust.Production, want.Trust.KeyCredential, want.Trust.TrustedKeys = true, "mvm-master-key", "/srv/keys"
	want.Remote.Origins = []string{"https://console.example", "http://localhost:3000"}
	want.Remote.Listen, want.Remote.CertDir, want.Remote.CertHours, want.Remote.Rate, want.Remote.Burst = ":7443", "/srv/certs", 12, 5, 7
	if diff := cmp.Diff(want, got, compare, cmpopts.IgnoreUnexported(want)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for key, want := range map[string]string{"socket": "default", "socket_group": file + ":3", "dns": file + ":5", "data_dir": "MVM_DATA_DIR", "log_level": "--log-level"} {
		if got := got.Origin(key); got != want {
			t.Errorf("%s: got origin %q, want %q", key, got, want)
		}
	}
}

func TestAgentProblems(t *testing.T) {
	for _, c := range []struct {
		name, file string
		env, flags map[string]string
		want       []string // without the file's name
	}{
		{"file", "socket = \"x\"\nsockets = \"/x\"\ndata_dir = \"/a/../b\"\ndriver = \"xen\"\nlog_level = 3\ndns = [\"x\", \"::1\", 4]\nsocket_group = \"a b\"\nnode_id = \"N\"\n[log]\n", nil, nil,
			[]string{"1:1: socket: \"x\" is not an absolute", "2:1: sockets: unknown key (did you mean socket?)", "3:1: data_dir: ", "4:1: driver: \"xen\" is not one of qemu, fake",
				"5:1: log_level: is an integer", "6:1: dns: \"x\" is not an IPv4", "6:20: dns[2]: is an integer", "7:1: socket_group: ", "8:1: node_id: node id", "9:2: log: unknown key"}},
		{"every source", "driver = \"xen\"\n", map[string]string{"MVM_LOG_LEVEL": "loud"}, map[string]string{"run_dir": "/" + strings.Repeat("x", 90)},
			[]string{" \"loud\" is not one of debug", " has 91 bytes", "1:1: driver"}},
		{"the key beside the secrets", "data_dir = \"/srv/x\"\nkey_file = \"/srv/x/keys/k\"\n", nil, nil, []string{" key_file: /srv/x/keys/k is in the data directory /srv/x"}},
		{"the API", "api_listen = \"node\"\ncert_dir = \"certs\"\ntrust_domain = \"A b\"\ncert_hours = \"24\"\napi_rate = 0\n", map[string]string{"MVM_API_BURST": "many"}, map[string]string{"api_connections": "0", "api_listen": "1.2.3.4"},
			[]string{" \"many\" is not a number in", " \"1.2.3.4\" is not ADDRESS:PORT", " \"0\" is not a number", "1:1: api_listen: \"node\" is not", "2:1: cert_dir: ", "3:1: trust_domain: ", "4:1: cert_hours: is a string, must be an integer", "5:1: api_rate: \"0\" is not a number in 1..10000"}},
		{"origins", "api_origins = [\"*\", \"https://x/path\"]\n", map[string]string{"MVM_API_ORIGINS": "https://X.example"}, nil,
			[]string{" \"https://X.example\" is not an origin", "1:1: api_origins: \"*\" is not an origin"}},
		{"what it tells where", "metrics_listen = \"unix:metrics.sock\"\n", nil, nil, []string{"1:1: metrics_listen: "}},
		{"what it tells", "metrics_listen = \"9750\"\naudit_retention_days = 0\n", nil, nil,
			[]string{"1:1: metrics_listen: \"9750\" is not", "2:1: audit_retention_days: \"0\" is not a number in 1..3650"}},
		{"trust", "trusted_keys = \"keys\"\nproduction = 1\nkey_credential = \"../k\"\nreplace_master_key = \"0A\"\nweak_isolation = 1\n", map[string]string{"MVM_PRODUCTION": "yes"}, nil,
			[]string{" \"yes\" is not true or false", "1:1: trusted_keys: ", "2:1: production: is an integer, must be a boolean", "3:1: key_credential: \"../k\" is not the name", "4:1: replace_master_key: \"0A\" is not the id", "5:1: weak_isolation: is an integer"}},
		{"too many resolvers", "dns = [\"1.1.1.1\", \"1.1.1.2\", \"1.1.1.3\", \"1.1.1.4\"]\n", nil, nil, []string{"1:1: dns: has 4 elements, more than 3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := write(t, filepath.Join(t.TempDir(), "agent.toml"), c.file)
			_, err := manifest.LoadAgentConfig(manifest.AgentSources{File: file, Lookup: env(c.env), Flags: c.flags})
			got := problems(t, err)
			if len(got) != len(c.want) {
				t.Fatalf("got\n%s", strings.Join(got, "\n"))
			}
			for n := range c.want {
				if !strings.HasPrefix(got[n], c.want[n]) {
					t.Errorf("got  %s\nwant %s…", got[n], c.want[n])
				}
			}
		})
	}
}

func TestAgentFileThatMustBeThere(t *testing.T) {
	_, err := manifest.LoadAgentConfig(manifest.AgentSources{File: filepath.Join(t.TempDir(), "none.toml"), FileRequired: true})
	if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v, want it to say that the file is not there", err)
	}
}
