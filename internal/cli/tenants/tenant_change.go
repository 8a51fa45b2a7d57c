package tenants

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/limits"
)

// quotaFlags are the seven limits, each a flag.
func quotaFlags(f *pflag.FlagSet) *mvm.Quota {
	q := mvm.DefaultQuota()
	f.IntVar(&q.MaxVCPUs, "max-vcpus", q.MaxVCPUs, "quota: virtual CPUs of running and warm instances")
	f.IntVar(&q.MaxMemMiB, "max-mem-mib", q.MaxMemMiB, "quota: memory of running and warm instances")
	f.IntVar(&q.MaxRunning, "max-running", q.MaxRunning, "quota: running instances")
	f.IntVar(&q.MaxWarm, "max-warm", q.MaxWarm, "quota: warm instances")
	f.IntVar(&q.MaxPools, "max-pools", q.MaxPools, "quota: pools")
	f.IntVar(&q.MaxInstancesPerPool, "max-instances-per-pool", q.MaxInstancesPerPool, "quota: instances of each pool")
	f.IntVar(&q.MaxDiskGiB, "max-disk-gib", q.MaxDiskGiB, "quota: total size of data disks")
	return &q
}

// changedQuota returns old with the limits that the user named, nil when none was.
func changedQuota(f *pflag.FlagSet, named *mvm.Quota, old mvm.Quota) *mvm.Quota {
	fields := map[string][2]*int{
		"max-vcpus": {&old.MaxVCPUs, &named.MaxVCPUs}, "max-mem-mib": {&old.MaxMemMiB, &named.MaxMemMiB},
		"max-running": {&old.MaxRunning, &named.MaxRunning}, "max-warm": {&old.MaxWarm, &named.MaxWarm},
		"max-pools": {&old.MaxPools, &named.MaxPools}, "max-disk-gib": {&old.MaxDiskGiB, &named.MaxDiskGiB},
		"max-instances-per-pool": {&old.MaxInstancesPerPool, &named.MaxInstancesPerPool},
	}
	changed := false
	for name, p := range fields {
		if f.Changed(name) {
			*p[0], changed = *p[1], true
		}
	}
	if !changed {
		return nil
	}
	return &old
}

// ceilingFlag is the list of ceilings to set.
func ceilingFlag(f *pflag.FlagSet) *[]string {
	return f.StringArray("ceiling", nil, "the highest limit that pools may ask for: `NAME=NUMBER`, NAME=default or NAME=none (repeat)")
}

// changedCeilings returns old with the ceilings that the user named, nil when none was.
func changedCeilings(named []string, old mvm.Limits) (*mvm.Limits, error) {
	if len(named) == 0 {
		return nil, nil
	}
	for _, text := range named {
		if err := limits.SetCeiling(&old, text); err != nil {
			return nil, err
		}
	}
	return &old, nil
}

type tenantCreateOptions struct {
	netID    int
	subnet   string
	pinned   bool
	services []int
	quota    *mvm.Quota
	ceilings *[]string
	out      *command.Format
}

func (a *app) tenantCreateCmd() *cobra.Command {
	var o tenantCreateOptions
	cmd := &cobra.Command{Use: "create TENANT [flags]", Short: "Create a tenant", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions}
	f := cmd.Flags()
	f.IntVar(&o.netID, "net-id", 0, "number of the tenant's network, 0..4095 (default: a free one)")
	f.StringVar(&o.subnet, "subnet", "", "subnet `CIDR`, /16 to /28 (default: derived from the net id)")
	f.BoolVar(&o.pinned, "pinned", false, "mvm never stops, pauses or restarts the tenant's instances by itself")
	f.IntSliceVar(&o.services, "host-service", nil, "TCP `PORT` on the host that the guests may reach (repeat, or separate with commas)")
	o.quota, o.ceilings = quotaFlags(f), ceilingFlag(f)
	o.out = command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.runTenantCreate(cmd, args[0], o) }
	return cmd
}

func (a *app) runTenantCreate(cmd *cobra.Command, id string, o tenantCreateOptions) error {
	spec := mvm.TenantSpec{ID: id, Pinned: o.pinned, HostServices: o.services, Quota: o.quota}
	if cmd.Flags().Changed("net-id") {
		spec.NetID = &o.netID
	}
	if o.subnet != "" {
		p, err := netip.ParsePrefix(o.subnet)
		if err != nil {
			return command.Usagef(cmd, "--subnet %q is not a subnet like 10.240.5.0/24", o.subnet)
		}
		spec.Subnet = p
	}
	ceilings, err := changedCeilings(*o.ceilings, mvm.Limits{})
	if spec.Ceilings = ceilings; err != nil {
		return err
	}
	if err := spec.Validate(); err != nil {
		return err
	}
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
		t, err := c.CreateTenant(ctx, spec)
		if err != nil {
			return err
		}
		a.Say("tenant %s created with subnet %s", t.ID, t.Subnet)
		a.sayHeld(ctx, c)
		return a.PrintChanged(*o.out, t, t.ID)
	})
}

func (a *app) tenantUpdateCmd() *cobra.Command {
	var pinned, closed bool
	var services []int
	cmd := &cobra.Command{Use: "update TENANT [flags]", Short: "Change a tenant's quota and settings; others stay as they are",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants}
	f := cmd.Flags()
	f.BoolVar(&pinned, "pinned", false, "mvm never stops, pauses or restarts the tenant's instances by itself")
	f.IntSliceVar(&services, "host-service", nil, "the full list of TCP `PORTS` on the host that the guests may reach")
	f.BoolVar(&closed, "closed", false, "guests reach private networks, and a user's instance others, only as their pool's egress and peers say")
	quota, ceilings := quotaFlags(f), ceilingFlag(f)
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			old, _, err := c.Tenant(ctx, args[0])
			if err != nil {
				return err
			}
			changed, err := changedCeilings(*ceilings, old.Ceilings)
			if err != nil {
				return err
			}
			up := mvm.TenantUpdate{Quota: changedQuota(f, quota, old.Quota), Ceilings: changed}
			if f.Changed("pinned") {
				up.Pinned = &pinned
			}
			if f.Changed("host-service") {
				up.HostServices = &services
			}
			if f.Changed("closed") {
				up.Closed = &closed
			}
			if up == (mvm.TenantUpdate{}) {
				return command.Usagef(cmd, "no setting to change was given")
			}
			t, err := c.UpdateTenant(ctx, args[0], up.From(old))
			if err != nil {
				return err
			}
			a.Say("tenant %s updated", t.ID)
			a.sayHeld(ctx, c)
			return a.PrintChanged(*out, t, t.ID)
		})
	}
	return cmd
}

func (a *app) tenantDestroyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "destroy TENANT [--yes]", Short: "Destroy a tenant with its pools, instances, disks, secrets and network",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants}
	yes := command.YesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			t, _, err := c.Tenant(ctx, args[0])
			if err != nil {
				return err
			}
			instances, err := c.Instances(ctx, mvm.Address{Tenant: t.ID})
			if err != nil {
				return err
			}
			lost := fmt.Sprintf("This destroys tenant %s for good: %s, %s. The audit log stays.",
				t.ID, command.LostInstances(instances), command.Plural(len(t.SecretNames), "secret", "secrets"))
			if err := a.Confirm(cmd, *yes, lost); err != nil {
				return err
			}
			p := a.NewProgress()
			defer p.Done()
			if err := c.DestroyTenant(ctx, t.ID, p.Show); err != nil {
				return err
			}
			p.Done()
			a.Say("tenant %s destroyed", t.ID)
			a.sayHeld(ctx, c)
			return nil
		})
	}
	return cmd
}
