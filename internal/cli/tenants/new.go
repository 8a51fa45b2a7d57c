package tenants

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/manifest"
)

type newOptions struct {
	config     string
	flake      string
	netID      int
	subnet     string
	secretDirs []string
	dry        bool
	timeout    *time.Duration
	force      bool
}

func (a *app) newCmd() *cobra.Command {
	var o newOptions
	cmd := &cobra.Command{Use: "new TEMPLATE NAME [flags]", Short: "Create a tenant from a template, and show how to reach it",
		Long: "Create a tenant from a template, with its pools, images and first instances. If the command\nwas interrupted, run it again to continue.\n" + command.TimeoutHelp + "\n" + templatesHelp(),
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeTemplates,
		Example: "  mvm new openclaw alice --config alice.toml"}
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "`FILE` with secrets and changes to the template's settings")
	f.StringVar(&o.flake, "flake", "", "image `REF` to use instead of the template's")
	f.IntVar(&o.netID, "net-id", 0, "number of the tenant's network, 0..4095 (default: a free one)")
	f.StringVar(&o.subnet, "subnet", "", "subnet `CIDR`, /16 to /28 (default: derived from the net id)")
	f.StringArrayVar(&o.secretDirs, "secrets-dir", nil, "`FOLDER` below which the config may name secret files by absolute path (repeat)")
	f.BoolVar(&o.dry, "dry-run", false, "change nothing and print the steps; exit with 10 if there are any")
	forceFlag(cmd, &o.force)
	o.timeout = command.TimeoutFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := command.CheckTimeout(cmd, *o.timeout, !o.dry); err != nil {
			return err
		}
		return a.runNew(cmd, args[0], args[1], o)
	}
	return cmd
}

func templatesHelp() string {
	s := "Templates:\n"
	for _, t := range manifest.Templates() {
		s += fmt.Sprintf("  %-10s %s\n", t.Name, t.About)
	}
	return s
}

func completeTemplates(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	if len(args) == 0 {
		for _, t := range manifest.Templates() {
			names = append(names, t.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) runNew(cmd *cobra.Command, template, name string, o newOptions) error {
	d, notes, err := a.newDeployment(cmd, template, name, o)
	if err != nil {
		return err
	}
	ctx := a.Identified(cmd.Context())
	c, err := a.Agent(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	a.SayLines(newText(d, notes))
	if o.dry {
		return a.apply(ctx, c, d, mvm.ApplyOptions{Dry: true, Force: o.force}, 0, command.AsTable)
	}
	if err := a.makeNew(ctx, c, d, o.force, *o.timeout); err != nil {
		return err
	}
	info, err := connection(ctx, c, name)
	if err != nil {
		return err
	}
	return a.Print(command.AsTable, info, func() command.Table {
		return command.Prose(append(info.lines(), "", "remove it:  mvm tenant destroy "+name))
	})
}

// makeNew applies the deployment; what it prints is for people.
func (a *app) makeNew(ctx context.Context, c *api.Client, d mvm.Deployment, force bool, limit time.Duration) error {
	steps, err := a.askApply(ctx, c, d, mvm.ApplyOptions{Force: force}, limit)
	if err != nil {
		return err
	}
	a.Say("%s done", command.Plural(len(steps), "step", "steps"))
	return nil
}

func (a *app) newDeployment(cmd *cobra.Command, template, name string, o newOptions) (mvm.Deployment, []string, error) {
	t, err := manifest.FindTemplate(template)
	if err != nil {
		return mvm.Deployment{}, nil, err
	}
	opts := manifest.NewOptions{}
	if opts.Flake, err = manifest.ImageRef(o.flake, "", a.IsRemote()); err != nil {
		return mvm.Deployment{}, nil, err
	}
	if cmd.Flags().Changed("net-id") {
		opts.NetID = &o.netID
	}
	if o.subnet != "" {
		if opts.Subnet, err = netip.ParsePrefix(o.subnet); err != nil {
			return mvm.Deployment{}, nil, command.Usagef(cmd, "--subnet %q is not a subnet like 10.240.5.0/24", o.subnet)
		}
	}
	var cfg manifest.NewConfig
	if o.config != "" {
		cfg, _, err = t.ReadNewConfig(o.config, manifest.Options{SecretDirs: o.secretDirs, Remote: a.IsRemote()})
	}
	if err != nil {
		return mvm.Deployment{}, nil, err
	}
	return t.Deployment(name, cfg, opts)
}

// newText says what a deployment makes.
func newText(d mvm.Deployment, notes []string) []string {
	lines := []string{"tenant " + d.Tenant.ID + ":"}
	for _, p := range d.Pools {
		r := p.Resources
		lines = append(lines, fmt.Sprintf("  pool %s: %s, %s, %s memory, data disk %s; %d running, %d warm",
			p.ID, p.Role, command.Plural(r.VCPUs, "vcpu", "vcpus"), command.Size(int64(r.MemMiB)<<20), command.Size(int64(r.DataDiskMiB)<<20), p.Desired.Running, p.Desired.Warm))
	}
	if len(d.Secrets) > 0 {
		lines = append(lines, "  "+command.Plural(len(d.Secrets), "secret", "secrets"))
	}
	for _, n := range notes {
		lines = append(lines, "  "+n)
	}
	return lines
}
