package tenants

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

func (a *app) tenantCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "tenant COMMAND", Short: "Tenants: each owns pools, a network and secrets", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(a.tenantCreateCmd(), a.tenantListCmd(), a.tenantInfoCmd(), a.tenantUpdateCmd(), a.tenantDestroyCmd(), a.rotateKeyCmd(), a.secretsCmd())
	return cmd
}

func (a *app) rotateKeyCmd() *cobra.Command {
	return &cobra.Command{Use: "rotate-key TENANT", Short: "Replace the key that encrypts the memory of a tenant's sleeping instances",
		Long: `Replace the key that encrypts the memory of a tenant's sleeping instances.

Instances keep their state, and the memory itself is not written again: only the keys of its
files are. If the command fails or is interrupted, the agent continues, and needs the old key
until it is done.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
				if err := c.RotateKey(ctx, args[0]); err != nil {
					return err
				}
				a.Say("%s has a new key", args[0])
				return nil
			})
		}}
}

func (a *app) tenantListCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "list [-o FORMAT]", Aliases: []string{"ls"}, Short: "List tenants", Args: cobra.NoArgs}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			ts, err := c.Tenants(ctx)
			if err != nil {
				return err
			}
			return a.Print(*out, ts, func() command.Table { return a.tenantTable(ts) })
		})
	}
	return cmd
}

func (a *app) tenantTable(ts []mvm.Tenant) command.Table {
	t := command.Table{Head: []string{"TENANT", "NET", "SUBNET", "SECRETS", "PINNED", "AGE"}, None: "no tenants"}
	for _, x := range ts {
		t.Add(x.ID, strconv.Itoa(x.NetID), x.Subnet.String(), strconv.Itoa(len(x.SecretNames)), command.YesNo(x.Pinned), a.Ago(x.Created))
	}
	return t
}

func (a *app) tenantInfoCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "info TENANT [-o FORMAT]", Short: "Show a tenant, its quota and its use of the quota",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			t, u, err := c.Tenant(ctx, args[0])
			if err != nil {
				return err
			}
			v := struct {
				mvm.Tenant
				Usage mvm.Usage `json:"usage"`
			}{t, u}
			return a.Print(*out, v, func() command.Table { return tenantInfoTable(t, u) })
		})
	}
	return cmd
}

func tenantInfoTable(t mvm.Tenant, u mvm.Usage) command.Table {
	var tab command.Table
	of := func(used, max int, unit string) string { return fmt.Sprintf("%d of %d%s", used, max, unit) }
	q := t.Quota
	tab.Add("tenant", t.ID)
	tab.Add("subnet", fmt.Sprintf("%s (net %d)", t.Subnet, t.NetID))
	tab.Add("created", t.Created.Local().Format("2006-01-02 15:04:05"))
	tab.Add("pinned", command.YesNo(t.Pinned))
	tab.Add("secrets", fmt.Sprintf("%s (generation %d)", command.Dash(strings.Join(t.SecretNames, ", ")), t.SecretsGeneration))
	tab.Add("host services", command.Dash(joinInts(t.HostServices)))
	tab.Add("network", networkText(t))
	tab.Add("vcpus", of(u.VCPUs, q.MaxVCPUs, ""))
	tab.Add("memory", of(u.MemMiB, q.MaxMemMiB, " MiB"))
	tab.Add("running", of(u.Running, q.MaxRunning, ""))
	tab.Add("warm", of(u.Warm, q.MaxWarm, ""))
	tab.Add("pools", of(u.Pools, q.MaxPools, ""))
	tab.Add("per pool", fmt.Sprintf("at most %d instances", q.MaxInstancesPerPool))
	tab.Add("disk", fmt.Sprintf("%s of %d GiB", command.Size(int64(u.DiskMiB)<<20), q.MaxDiskGiB))
	addCeilings(&tab, t.Ceilings)
	if t.Problem != "" {
		tab.Add("problem", t.Problem)
	}
	return tab
}

// networkText says whether private networks and neighbours are closed.
func networkText(t mvm.Tenant) string {
	if t.Closed {
		return "closed: private networks and other users' instances only as pools allow"
	}
	return "open: guests reach private networks and each other; close it with mvm tenant update " + t.ID + " --closed"
}

func joinInts(ns []int) string {
	sort.Ints(ns)
	var parts []string
	for _, n := range ns {
		parts = append(parts, strconv.Itoa(n))
	}
	return strings.Join(parts, ", ")
}
