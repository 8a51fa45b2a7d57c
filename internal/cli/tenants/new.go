package tenants

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/manifest"
	"mvm/internal/manifest/render"
)

type newOptions struct {
	config     string
	set        []string
	image      string
	flake      string
	print      bool
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
		Long: newHelp + command.TimeoutHelp + "\n" + templatesHelp(),
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeTemplates,
		Example: "  mvm new openclaw alice --config alice.toml\n  mvm new web shop --set image=oci:registry.example.com/shop:1.4 --set port=3000\n  mvm new ./team.toml alice --print > alice.toml"}
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "`FILE` with secrets and changes to the template's settings")
	f.StringArrayVar(&o.set, "set", nil, "set a parameter of the template, `NAME=VALUE` (repeat)")
	f.StringVar(&o.image, "image", "", "image `REF` to use instead of the template's; the same as --set image=REF")
	f.StringVar(&o.flake, "flake", "", "another name of --image `REF`")
	f.BoolVar(&o.print, "print", false, "change nothing and print the manifest, for mvm deploy; no agent is asked")
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
		if o.print && (o.dry || o.force) {
			return command.Usagef(cmd, "--print does not go with --dry-run or --force")
		}
		if o.image != "" && o.flake != "" {
			return command.Usagef(cmd, "--image and --flake are the same: give one of them")
		}
		return a.runNew(cmd, args[0], args[1], o)
	}
	return cmd
}

const newHelp = `Create a tenant from a template, with its pools, images and first instances. If the command
was interrupted, run it again to continue.

TEMPLATE is a name or the path of a file. ` + "`mvm templates`" + ` lists the names, and
` + "`mvm templates show TEMPLATE`" + ` the parameters that --set sets.
`

func templatesHelp() string {
	s := "Built-in templates:\n"
	for _, t := range manifest.Templates() {
		s += fmt.Sprintf("  %-10s %s\n", t.Name, t.About)
	}
	return s
}

func (a *app) runNew(cmd *cobra.Command, template, name string, o newOptions) error {
	d, files, notes, err := a.newDeployment(cmd, template, name, o)
	if err != nil {
		return err
	}
	if o.print {
		return a.printManifest(d, files)
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

// newDeployment makes the deployment, and says in which files its secrets are.
func (a *app) newDeployment(cmd *cobra.Command, template, name string, o newOptions) (d mvm.Deployment, files map[string]string, notes []string, err error) {
	t, err := manifest.FindTemplate(template, a.TemplateDir())
	if err != nil {
		return mvm.Deployment{}, nil, nil, err
	}
	opts := manifest.NewOptions{Flake: cmp.Or(o.image, o.flake), Set: o.set, Remote: a.IsRemote()}
	if cmd.Flags().Changed("net-id") {
		opts.NetID = &o.netID
	}
	if o.subnet != "" {
		if opts.Subnet, err = netip.ParsePrefix(o.subnet); err != nil {
			return mvm.Deployment{}, nil, nil, command.Usagef(cmd, "--subnet %q is not a subnet like 10.240.5.0/24", o.subnet)
		}
	}
	var cfg manifest.NewConfig
	if o.config != "" {
		cfg, _, err = t.ReadNewConfig(o.config, manifest.Options{SecretDirs: o.secretDirs, Remote: a.IsRemote()})
	}
	if err != nil {
		return mvm.Deployment{}, nil, nil, err
	}
	d, notes, err = t.Deployment(name, cfg, opts)
	return d, cfg.SecretFiles, notes, err
}

// printManifest writes the manifest of the deployment. files are the paths of its secrets,
// absolute or from the working folder.
func (a *app) printManifest(d mvm.Deployment, files map[string]string) error {
	text, err := render.Deployment(d, files)
	if err != nil {
		return err
	}
	for _, path := range files {
		if filepath.IsAbs(path) {
			a.Say("the manifest names secret files by absolute path: deploy it with --secrets-dir FOLDER")
			break
		}
	}
	return a.WriteText(text)
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
