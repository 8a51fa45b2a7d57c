package tenants

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/manifest"
	"mvm/internal/strictjson"
)

// poolFlags are the flags that say what a pool is; each one named changes one thing
// of a spec.
type poolFlags struct {
	flake, role, profile               string
	vcpus, memMiB, diskMiB             int
	running, warm, sleeping            int
	pinned, critical, peers            bool
	env, publish, scopes, egress       []string
	limits                             []string
	unsetEnv, unpublish, noEgress      []string
	routesFile, integrations, channels string
	minRunning, minWarm                int
	drain, graceful                    int
	warmAfter, sleepAfter              int
	idleCPU, idleBytes                 int
	quietConns                         int
	catchUp                            mvm.CatchUp
	apply                              map[string]func(*mvm.PoolSpec) error
}

// newPoolFlags adds the flags to the command; withRole for creation, where the role
// can still be chosen.
func (a *app) newPoolFlags(cmd *cobra.Command, withRole bool) *poolFlags {
	o := &poolFlags{apply: map[string]func(*mvm.PoolSpec) error{}}
	def := mvm.DefaultResources()
	if withRole {
		o.text(cmd, &o.role, "role", "worker", "`ROLE`: gateway, builder, worker or capability-imessage", func(s *mvm.PoolSpec, v string) { s.Role = mvm.Role(v) })
	}
	o.text(cmd, &o.flake, "flake", "", "image `REF`: builtin:NAME, a Nix flake, oci:REF, oci-archive:FILE or dir:FOLDER", nil)
	o.apply["flake"] = func(s *mvm.PoolSpec) (err error) {
		s.Flake, err = manifest.ImageRef(o.flake, "", a.IsRemote())
		return err
	}
	o.text(cmd, &o.profile, "profile", "minimal", "`PROFILE` that a Nix flake builds", func(s *mvm.PoolSpec, v string) { s.Profile = v })
	o.num(cmd, &o.vcpus, "vcpus", def.VCPUs, "virtual CPUs of each instance", func(s *mvm.PoolSpec, n int) { s.Resources.VCPUs = n })
	o.num(cmd, &o.memMiB, "mem-mib", def.MemMiB, "memory of each instance, in MiB", func(s *mvm.PoolSpec, n int) { s.Resources.MemMiB = n })
	o.num(cmd, &o.diskMiB, "data-disk-mib", 0, "data disk of each instance, in MiB; 0: none", func(s *mvm.PoolSpec, n int) { s.Resources.DataDiskMiB = n })
	o.countFlags(cmd)
	o.policyFlags(cmd)
	o.boolFlags(cmd)
	o.listFlags(cmd, !withRole)
	o.fileFlags(cmd)
	return o
}

func (o *poolFlags) text(cmd *cobra.Command, v *string, name, def, usage string, set func(*mvm.PoolSpec, string)) {
	cmd.Flags().StringVar(v, name, def, usage)
	o.apply[name] = func(s *mvm.PoolSpec) error { set(s, *v); return nil }
}

func (o *poolFlags) num(cmd *cobra.Command, v *int, name string, def int, usage string, set func(*mvm.PoolSpec, int)) {
	cmd.Flags().IntVar(v, name, def, usage)
	o.apply[name] = func(s *mvm.PoolSpec) error { set(s, *v); return nil }
}

// countFlags are also those of `pool scale`.
func (o *poolFlags) countFlags(cmd *cobra.Command) {
	o.num(cmd, &o.running, "running", 0, "desired number of running instances", func(s *mvm.PoolSpec, n int) { s.Desired.Running = n })
	o.num(cmd, &o.warm, "warm", 0, "desired number of warm instances", func(s *mvm.PoolSpec, n int) { s.Desired.Warm = n })
	o.num(cmd, &o.sleeping, "sleeping", 0, "desired number of sleeping instances", func(s *mvm.PoolSpec, n int) { s.Desired.Sleeping = n })
}

func (o *poolFlags) boolFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.pinned, "pinned", false, "mvm never pauses the instances or puts them to sleep by itself")
	cmd.Flags().BoolVar(&o.critical, "critical", false, "mvm never changes existing instances by itself; it only creates missing ones")
	cmd.Flags().StringVar((*string)(&o.catchUp), "wake-catch-up", string(mvm.CatchUpOnce), "what to do with missed wakes of timers: once, skip or all")
	o.apply["wake-catch-up"] = func(s *mvm.PoolSpec) error { s.WakeCatchUp = o.catchUp; return o.catchUp.Validate() }
	cmd.Flags().BoolVar(&o.peers, "peers", false, "instances of one user reach others of the tenant, not its gateways alone")
	o.apply["peers"] = func(s *mvm.PoolSpec) error { s.Peers = o.peers; return nil }
	o.apply["pinned"] = func(s *mvm.PoolSpec) error { s.Pinned = o.pinned; return nil }
	o.apply["critical"] = func(s *mvm.PoolSpec) error { s.Critical = o.critical; return nil }
}

func (o *poolFlags) fileFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.routesFile, "routes", "", "JSON `FILE` with the routing table of a gateway pool")
	f.StringVar(&o.integrations, "integrations", "", "JSON `FILE` with the integrations")
	f.StringVar(&o.channels, "channels", "", "JSON `FILE` with the channels of a gateway pool")
	o.apply["channels"] = func(s *mvm.PoolSpec) error {
		var file struct {
			Channels []mvm.Channel `json:"channels"`
		}
		err := readJSON(o.channels, &file)
		s.Channels = file.Channels
		return err
	}
	o.apply["routes"] = func(s *mvm.PoolSpec) error {
		s.Routes = &mvm.RoutingTable{}
		return readJSON(o.routesFile, s.Routes)
	}
	o.apply["integrations"] = func(s *mvm.PoolSpec) error {
		var file struct {
			Integrations []mvm.Integration `json:"integrations"`
		}
		err := readJSON(o.integrations, &file)
		s.Integrations = file.Integrations
		return err
	}
}

// change applies the flags that the user named to the spec and checks it.
func (o *poolFlags) change(cmd *cobra.Command, s *mvm.PoolSpec) error {
	names := slices.SortedFunc(maps.Keys(o.apply), func(a, b string) int { return cmp.Or(order(a)-order(b), strings.Compare(a, b)) })
	for _, name := range names {
		set := o.apply[name]
		if !cmd.Flags().Changed(name) {
			continue
		}
		if err := set(s); err != nil {
			return err
		}
	}
	return s.Validate()
}

const maxJSONFile = 1 << 20

// readJSON reads a JSON file strictly.
func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "read %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxJSONFile+1))
	if err == nil && len(b) > maxJSONFile {
		err = fmt.Errorf("more than %d bytes", maxJSONFile)
	}
	if err == nil {
		err = strictjson.Unmarshal(b, v)
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "read %s: %w", path, err)
	}
	return nil
}
