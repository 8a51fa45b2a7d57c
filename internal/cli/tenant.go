package cli

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

func (a *app) tenantCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "tenant COMMAND", Short: "Tenants: each owns pools, a network and secrets", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(a.tenantCreateCmd(), a.tenantListCmd(), a.tenantInfoCmd(), a.tenantUpdateCmd(), a.tenantDestroyCmd(), a.secretsCmd())
	return cmd
}

func (a *app) tenantListCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "list [-o FORMAT]", Aliases: []string{"ls"}, Short: "List tenants", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			ts, err := c.Tenants(ctx)
			if err != nil {
				return err
			}
			return a.print(*out, ts, func() table { return a.tenantTable(ts) })
		})
	}
	return cmd
}

func (a *app) tenantTable(ts []mvm.Tenant) table {
	t := table{head: []string{"TENANT", "NET", "SUBNET", "SECRETS", "PINNED", "AGE"}, none: "no tenants"}
	for _, x := range ts {
		t.add(x.ID, strconv.Itoa(x.NetID), x.Subnet.String(), strconv.Itoa(len(x.SecretNames)), yesNo(x.Pinned), a.ago(x.Created))
	}
	return t
}

func (a *app) tenantInfoCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "info TENANT [-o FORMAT]", Short: "Show a tenant, its quota and its use of the quota",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeTenants}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			t, u, err := c.Tenant(ctx, args[0])
			if err != nil {
				return err
			}
			v := struct {
				mvm.Tenant
				Usage mvm.Usage `json:"usage"`
			}{t, u}
			return a.print(*out, v, func() table { return tenantInfoTable(t, u) })
		})
	}
	return cmd
}

func tenantInfoTable(t mvm.Tenant, u mvm.Usage) table {
	var tab table
	of := func(used, max int, unit string) string { return fmt.Sprintf("%d of %d%s", used, max, unit) }
	q := t.Quota
	tab.add("tenant", t.ID)
	tab.add("subnet", fmt.Sprintf("%s (net %d)", t.Subnet, t.NetID))
	tab.add("created", t.Created.Local().Format("2006-01-02 15:04:05"))
	tab.add("pinned", yesNo(t.Pinned))
	tab.add("secrets", fmt.Sprintf("%s (generation %d)", dash(strings.Join(t.SecretNames, ", ")), t.SecretsGeneration))
	tab.add("host services", dash(joinInts(t.HostServices)))
	tab.add("vcpus", of(u.VCPUs, q.MaxVCPUs, ""))
	tab.add("memory", of(u.MemMiB, q.MaxMemMiB, " MiB"))
	tab.add("running", of(u.Running, q.MaxRunning, ""))
	tab.add("warm", of(u.Warm, q.MaxWarm, ""))
	tab.add("pools", of(u.Pools, q.MaxPools, ""))
	tab.add("per pool", fmt.Sprintf("at most %d instances", q.MaxInstancesPerPool))
	tab.add("disk", fmt.Sprintf("%s of %d GiB", size(int64(u.DiskMiB)<<20), q.MaxDiskGiB))
	if t.Problem != "" {
		tab.add("problem", t.Problem)
	}
	return tab
}

func joinInts(ns []int) string {
	sort.Ints(ns)
	var parts []string
	for _, n := range ns {
		parts = append(parts, strconv.Itoa(n))
	}
	return strings.Join(parts, ", ")
}
