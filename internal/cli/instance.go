package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

func (a *app) instanceCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "instance COMMAND", Short: "Instances: one microVM each", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(a.instanceCreateCmd(), a.listInstancesCmd("list", "ls"), a.instanceInfoCmd())
	for _, op := range operations() {
		cmd.AddCommand(a.operateCmd(op))
	}
	cmd.AddCommand(a.execCmd(), a.logsCmd(), a.instanceStatsCmd(), a.instanceSnapshotsCmd(), a.instanceDestroyCmd())
	return cmd
}

func addrText(i mvm.Instance) string {
	if !i.IP.IsValid() {
		return "-"
	}
	return i.IP.String()
}

func (a *app) instanceCreateCmd() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "create TENANT/POOL [--key KEY] [-o FORMAT]", Short: "Create an instance without starting it; its pool must have a build",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools}
	cmd.Flags().StringVar(&key, "key", "", "`KEY` of the user that the instance is for")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if key != "" {
			if err := mvm.ValidateKey(key); err != nil {
				return err
			}
		}
		return a.onPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			i, err := c.CreateInstance(ctx, at.Tenant, at.Pool, key)
			if err != nil {
				return err
			}
			a.say("instance %s created; start it with `mvm instance start %s`", i.Address(), i.ID)
			return a.printChanged(*out, i, i.Address().String())
		})
	}
	return cmd
}

// onOne is onInstance that takes a pool with one instance, too.
func (a *app) onOne(cmd *cobra.Command, arg string, f func(ctx context.Context, c *api.Client, at mvm.Address) error) error {
	pool, err := mvm.ParseAddress(arg)
	if err != nil || pool.Pool == "" || pool.Instance != "" || pool.Key != "" {
		return a.onInstance(cmd, arg, f)
	}
	return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
		at, err := only(ctx, c, pool)
		if err != nil {
			return err
		}
		return f(ctx, c, at)
	})
}

// only is the one instance that the pool has.
func only(ctx context.Context, c *api.Client, pool mvm.Address) (mvm.Address, error) {
	all, err := c.Instances(ctx, pool)
	switch {
	case err != nil:
		return pool, err
	case len(all) == 0:
		return pool, mvm.Errorf(mvm.KindNotFound, "%s has no instance", pool).WithFix("see `mvm pool info %s`", pool)
	case len(all) > 1:
		return pool, mvm.Errorf(mvm.KindInvalid, "%s has %d instances", pool, len(all)).WithFix("name one of %s", namesOf(all))
	}
	return all[0].Address(), nil
}

// namesOf lists instances for people, a handful of many.
func namesOf(all []mvm.Instance) string {
	const most = 8
	var names []string
	for _, i := range all[:min(len(all), most)] {
		name := i.Address().String()
		if i.Key != "" {
			name += " (@" + i.Key + ")"
		}
		names = append(names, name+" "+string(i.State))
	}
	if n := len(all) - most; n > 0 {
		names = append(names, fmt.Sprintf("%d more", n))
	}
	return strings.Join(names, ", ")
}

// onInstance runs f with a client and the instance that arg names.
func (a *app) onInstance(cmd *cobra.Command, arg string, f func(ctx context.Context, c *api.Client, at mvm.Address) error) error {
	addr, err := instanceAddress(cmd, arg)
	if err != nil {
		return err
	}
	return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error { return f(ctx, c, addr) })
}

func instanceAddress(cmd *cobra.Command, arg string) (mvm.Address, error) {
	addr, err := mvm.ParseAddress(arg)
	if err == nil && addr.Instance == "" && addr.Key == "" {
		err = usagef(cmd, "%q does not name an instance; use tenant/pool/instance, tenant/pool@key or an instance id", arg)
	}
	return addr, err
}

func (a *app) instanceInfoCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "info INSTANCE [-o FORMAT]", Short: "Show an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeInstances}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onOne(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			i, err := c.Instance(ctx, at)
			if err != nil {
				return err
			}
			return a.print(*out, i, func() table { return a.instanceInfoTable(i) })
		})
	}
	return cmd
}

func (a *app) instanceInfoTable(i mvm.Instance) table {
	var t table
	t.add("instance", i.Address().String())
	t.add("state", string(i.State))
	t.add("since", a.ago(i.Changed))
	a.addHealth(&t, i)
	t.add("role", string(i.Role))
	t.add("key", dash(i.Key))
	t.add("address", addrText(i)+" "+i.MAC)
	t.add("size", fmt.Sprintf("%s, %s memory, data disk %s", plural(i.Res.VCPUs, "vcpu", "vcpus"),
		size(int64(i.Res.MemMiB)<<20), size(int64(i.Res.DataDiskMiB)<<20)))
	t.add("build", dash(i.BuildID)+" "+clip(i.Image, 19))
	if !i.NextWake.IsZero() {
		t.add("next wake", a.wakeText(i.NextWake))
	}
	t.add("secrets", fmt.Sprintf("generation %d", i.SecretsGeneration))
	if i.Untold != "" {
		t.add("not delivered", i.Untold)
	}
	if i.Snapshot != nil {
		t.add("snapshot", fmt.Sprintf("%s, %s, taken %s ago", i.Snapshot.ID, size(i.Snapshot.Bytes), a.ago(i.Snapshot.Taken)))
	}
	for _, s := range i.SetAside {
		t.add("set aside", fmt.Sprintf("%s, %s, %s ago: %s", s.Snapshot.ID, size(s.Snapshot.Bytes), a.ago(s.At), s.Why))
	}
	for _, s := range i.Integrations {
		t.add("integration", s.Name+" "+a.integrationText(s))
	}
	if left := i.ManualOverrideUntil.Sub(a.Now()); left > 0 {
		t.add("by hand", "left alone for another "+age(left))
	}
	if n := note(i); n != "" {
		t.add("note", n)
	}
	return t
}

// addHealth adds how the instance and each of its services are.
func (a *app) addHealth(t *table, i mvm.Instance) {
	if i.Stalled != "" {
		t.add("stalled", i.Stalled)
	}
	if i.Health == nil {
		return
	}
	t.add("health", fmt.Sprintf("%s since %s", i.Health.Status, a.ago(i.Health.Since)))
	for _, s := range i.Health.Services {
		t.add("service", s.Name+" is "+s.Text())
	}
	for _, c := range i.Health.Channels {
		t.add("channel", c.Name+": "+c.Text())
	}
}

func (a *app) instanceStatsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "stats INSTANCE... [-o FORMAT]", Short: "Show the resource use of instances", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completeInstances}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			var all []mvm.InstanceStats
			for _, arg := range args {
				at, err := instanceAddress(cmd, arg)
				if err != nil {
					return err
				}
				s, err := c.Stats(ctx, at)
				if err != nil {
					return err
				}
				all = append(all, s)
			}
			return a.print(*out, all, func() table { return a.statsTable(all) })
		})
	}
	return cmd
}

func (a *app) statsTable(all []mvm.InstanceStats) table {
	t := table{head: []string{"INSTANCE", "STATE", "PID", "CPU", "MEMORY", "RX", "TX", "DISK", "ASLEEP", "CONNS", "ACTIVE", "IDLE"}}
	for _, s := range all {
		pid := "-"
		if s.PID != 0 {
			pid = strconv.Itoa(s.PID)
		}
		t.add(s.ID, string(s.State), pid, took(s.CPU), size(s.RSSBytes), size(s.RxBytes), size(s.TxBytes),
			size(s.DiskBytes), size(s.SleeperBytes), strconv.Itoa(s.Connections), a.ago(s.LastActive), a.idleText(s.Idle))
	}
	return t
}
