package manifest

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"mvm/internal/stricttoml"
)

// AgentConfig is how the agent of a host works. Every value has an origin.
type AgentConfig struct {
	Socket      string       // unix socket of the API
	SocketGroup string       // group that may use it beside root; empty: none
	DataDir     string       // state, images, instances, snapshots
	RunDir      string       // sockets and pid files of VMMs
	Driver      string       // "qemu", "firecracker" or "fake"
	UIDBase     int          // first of the users that VMMs run as; 0: chosen
	KeyFile     string       // master key of the secrets at rest; outside DataDir
	NodeID      string       // empty: made once and kept
	LogLevel    string       // "debug", "info", "warn" or "error"
	LogFormat   string       // "text" or "json"
	DNS         []netip.Addr // resolvers of the guests; empty: the host's
	Remote      RemoteConfig // the API for other machines
	Reconcile   ReconcileConfig
	Hostd       HostdConfig  // who has the rights
	Memory      MemoryConfig // when the host has too little
	Ready       ReadyConfig  // memory of sleeping guests that is kept
	Snapshots   SnapshotConfig
	Registries  RegistryConfig
	Nix         NixConfig
	Trust       TrustConfig // trusted keys, production mode, source of the master key

	Observe ObserveConfig // what it tells of itself

	origins map[string]string
}

// Origin says where the value of a key ("data_dir") is from: "default",
// "/etc/mvm/agent.toml:3", "MVM_DATA_DIR" or "--data-dir".
func (c AgentConfig) Origin(key string) string { return c.origins[key] }

// AgentSources are where the agent's config comes from, weakest first: the
// defaults, the file, the environment, the flags.
type AgentSources struct {
	// File is the config file; empty: none. Without FileRequired it may be absent.
	File         string
	FileRequired bool
	// Lookup reads an environment variable, as os.LookupEnv; nil: none are set. A
	// key's variable is MVM_ and the key in capitals; an empty one counts as not set.
	Lookup func(name string) (string, bool)
	// Flags are the flags that were given, by key ("data_dir"), as text.
	Flags map[string]string
}

// agentKey is one key of the config.
type agentKey struct {
	name  string
	value string // the default
	check func(string) error

	number  bool // in the file it is an integer
	boolean bool // in the file it is a boolean
	list    int  // in the file it is an array of at most so many strings; 0: it is none
}

// maxSocketPath is what the kernel lets a socket's path have; maxRunDir leaves room in
// it for "/i-a3f7b2c1/v.sock_4294967295".
const (
	maxSocketPath = 107
	maxRunDir     = 70
)

func agentKeys() []agentKey {
	keys := []agentKey{
		{name: "socket", value: "/run/mvm/agent.sock", check: absolute(maxSocketPath)},
		{name: "socket_group", value: "", check: validGroup},
		{name: "data_dir", value: "/var/lib/mvm", check: absolute(4096)},
		{name: "run_dir", value: "/run/mvm", check: absolute(maxRunDir)},
		{name: "driver", value: "qemu", check: oneOf("qemu", "fake", "firecracker")},
		{name: "uid_base", value: "0", check: number(0, 1<<31-1), number: true},
		{name: "key_file", value: "/etc/mvm/master.key", check: absolute(4096)},
		{name: "node_id", value: "", check: validName("node")},
		{name: "log_level", value: "info", check: oneOf("debug", "info", "warn", "error")},
		{name: "log_format", value: "text", check: oneOf("text", "json")},
		{name: "dns", value: "", check: validResolvers, list: maxResolvers},
	}
	return slices.Concat(keys, hostdKeys(), reconcileKeys(), memoryKeys(), readyKeys(), snapshotKeys(), registryKeys(), nixKeys(), remoteKeys(), observeKeys(), trustKeys())
}

func absolute(limit int) func(string) error {
	return func(s string) error {
		if !filepath.IsAbs(s) || filepath.Clean(s) != s || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%q is not an absolute, clean path", stricttoml.Clip(s))
		}
		if len(s) > limit {
			return fmt.Errorf("has %d bytes, more than %d", len(s), limit)
		}
		return nil
	}
}

func oneOf(words ...string) func(string) error {
	return func(s string) error {
		for _, w := range words {
			if s == w {
				return nil
			}
		}
		return fmt.Errorf("%q is not one of %s", stricttoml.Clip(s), strings.Join(words, ", "))
	}
}

func validGroup(s string) error {
	if s == "" || len(s) > 64 || strings.ContainsAny(s, ": \t\n\x00/") {
		return fmt.Errorf("%q is not the name of a group", stricttoml.Clip(s))
	}
	return nil
}

func validResolvers(s string) error {
	_, err := resolvers(s)
	return err
}

const maxResolvers = 3

func resolvers(s string) ([]netip.Addr, error) {
	var out []netip.Addr
	for word := range strings.SplitSeq(s, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(word))
		if err != nil || !a.Is4() {
			return nil, fmt.Errorf("%q is not an IPv4 address", stricttoml.Clip(word))
		}
		out = append(out, a)
	}
	if len(out) > maxResolvers {
		return nil, fmt.Errorf("%d resolvers are more than %d", len(out), maxResolvers)
	}
	return out, nil
}
