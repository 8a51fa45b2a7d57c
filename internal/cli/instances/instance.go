package instances

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

func (a *app) instanceCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "instance COMMAND", Short: "Instances: one microVM each", Args: cobra.ArbitraryArgs, RunE: command.Group}
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
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompletePools}
	cmd.Flags().StringVar(&key, "key", "", "`KEY` of the user that the instance is for")
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if key != "" {
			if err := mvm.ValidateKey(key); err != nil {
				return err
			}
		}
		return a.OnPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			i, err := c.CreateInstance(ctx, at.Tenant, at.Pool, key)
			if err != nil {
				return err
			}
			a.Say("instance %s created; start it with `mvm instance start %s`", i.Address(), i.ID)
			return a.PrintChanged(*out, i, i.Address().String())
		})
	}
	return cmd
}

// onOne runs f with a client and the instance that arg names: by its own name, or as the only
// one of its pool.
func (a *app) onOne(cmd *cobra.Command, arg string, f func(ctx context.Context, c *api.Client, at mvm.Address) error) error {
	return a.onEach(cmd, []string{arg}, func(ctx context.Context, c *api.Client, at []mvm.Address) error { return f(ctx, c, at[0]) })
}

// onEach is onOne for several. All are known before f runs.
func (a *app) onEach(cmd *cobra.Command, args []string, f func(ctx context.Context, c *api.Client, at []mvm.Address) error) error {
	at := make([]mvm.Address, len(args))
	for n, arg := range args {
		var err error
		if at[n], err = mvm.ParseAddress(arg); err != nil {
			return err
		}
		if at[n].Instance == "" && at[n].Key == "" && at[n].Pool == "" {
			return notAnInstance(cmd, arg)
		}
	}
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) (err error) {
		for n := range at {
			if at[n].Instance != "" || at[n].Key != "" {
				continue
			}
			if at[n], err = only(ctx, c, at[n]); err != nil {
				return err
			}
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

func notAnInstance(cmd *cobra.Command, arg string) error {
	return command.Usagef(cmd, "%q does not name an instance; use tenant/pool/instance, tenant/pool@key, an instance id, or tenant/pool if the pool has one instance", arg)
}

func (a *app) instanceInfoCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "info INSTANCE [-o FORMAT]", Short: "Show an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteInstances}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onOne(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			i, err := c.Instance(ctx, at)
			if err != nil {
				return err
			}
			return a.Print(*out, i, func() command.Table { return a.instanceInfoTable(i) })
		})
	}
	return cmd
}

func (a *app) instanceInfoTable(i mvm.Instance) command.Table {
	var t command.Table
	t.Add("instance", i.Address().String())
	t.Add("state", string(i.State))
	t.Add("since", a.Ago(i.Changed))
	a.addHealth(&t, i)
	t.Add("role", string(i.Role))
	t.Add("key", command.Dash(i.Key))
	t.Add("address", addrText(i)+" "+i.MAC)
	t.Add("size", fmt.Sprintf("%s, %s memory, data disk %s", command.Plural(i.Res.VCPUs, "vcpu", "vcpus"),
		command.Size(int64(i.Res.MemMiB)<<20), command.Size(int64(i.Res.DataDiskMiB)<<20)))
	t.Add("build", command.Dash(i.BuildID)+" "+command.Clip(i.Image, 19))
	if !i.NextWake.IsZero() {
		t.Add("next wake", a.wakeText(i.NextWake))
	}
	if waits := i.Backlog.Text(); waits != "" {
		t.Add("messages", waits)
	}
	t.Add("secrets", fmt.Sprintf("generation %d", i.SecretsGeneration))
	if i.Untold != "" {
		t.Add("not delivered", i.Untold)
	}
	if i.Snapshot != nil {
		t.Add("snapshot", fmt.Sprintf("%s, %s, taken %s ago", i.Snapshot.ID, command.Size(i.Snapshot.Bytes), a.Ago(i.Snapshot.Taken)))
	}
	for _, s := range i.SetAside {
		t.Add("set aside", fmt.Sprintf("%s, %s, %s ago: %s", s.Snapshot.ID, command.Size(s.Snapshot.Bytes), a.Ago(s.At), s.Why))
	}
	for _, s := range i.Integrations {
		t.Add("integration", s.Name+" "+a.IntegrationText(s))
	}
	if left := i.ManualOverrideUntil.Sub(a.Now()); left > 0 {
		t.Add("by hand", "left alone for another "+command.Age(left))
	}
	if n := note(i); n != "" {
		t.Add("note", n)
	}
	return t
}

// addHealth adds how the instance and each of its services are.
func (a *app) addHealth(t *command.Table, i mvm.Instance) {
	if i.Stalled != "" {
		t.Add("stalled", i.Stalled)
	}
	if i.Unlimited != "" {
		t.Add("without limits", i.Unlimited)
	}
	if i.Health == nil {
		return
	}
	t.Add("health", fmt.Sprintf("%s since %s", i.Health.Status, a.Ago(i.Health.Since)))
	for _, s := range i.Health.Services {
		t.Add("service", s.Name+" is "+s.Text())
	}
	for _, c := range i.Health.Channels {
		t.Add("channel", c.Name+": "+c.Text())
	}
}

func (a *app) instanceStatsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "stats INSTANCE... [-o FORMAT]", Short: "Show the resource use of instances", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.CompleteInstances}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onEach(cmd, args, func(ctx context.Context, c *api.Client, addrs []mvm.Address) error {
			var all []mvm.InstanceStats
			for _, at := range addrs {
				s, err := c.Stats(ctx, at)
				if err != nil {
					return err
				}
				all = append(all, s)
			}
			return a.Print(*out, all, func() command.Table { return a.statsTable(all) })
		})
	}
	return cmd
}

func (a *app) statsTable(all []mvm.InstanceStats) command.Table {
	t := command.Table{Head: []string{"INSTANCE", "STATE", "PID", "CPU", "MEMORY", "RX", "TX", "DISK", "ASLEEP", "CONNS", "ACTIVE", "IDLE", "WAITED"}}
	for _, s := range all {
		pid := "-"
		if s.PID != 0 {
			pid = strconv.Itoa(s.PID)
		}
		t.Add(s.ID, string(s.State), pid, command.Took(s.CPU), command.Size(s.RSSBytes+s.ReadyBytes), command.Size(s.RxBytes), command.Size(s.TxBytes),
			command.Size(s.DiskBytes), command.Size(s.SleeperBytes), strconv.Itoa(s.Connections), a.Ago(s.LastActive), a.idleText(s.Idle), waitedText(s))
	}
	return t
}

// waitedText is how long the VMM waited for CPU time beyond its limit, and the guest for
// its disks.
func waitedText(s mvm.InstanceStats) string {
	var parts []string
	if s.CPUThrottled > 0 {
		parts = append(parts, "cpu "+command.Took(s.CPUThrottled))
	}
	if s.DiskWait > 0 {
		parts = append(parts, "disk "+command.Took(s.DiskWait))
	}
	if s.DroppedFrames > 0 {
		parts = append(parts, fmt.Sprintf("dropped %d frames", s.DroppedFrames))
	}
	return command.Dash(strings.Join(parts, ", "))
}
