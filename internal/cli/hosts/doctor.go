package hosts

import (
	"context"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/doctor"
)

const doctorHelp = `Check whether the host has what mvm needs, and check the agent if one answers. Each finding
says what to do. The command works without an agent and changes nothing. It exits with 1 if
something is missing.

With --tenant, check the chat channels of a tenant instead: secrets, allowlist, published
ports, the token, reachability, webhooks, other receivers, messages that wait, and the next
wakes of the assistants. The gateways ask the platforms, because only they have the tokens.
`

func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor [--tenant TENANT] [-o FORMAT]", Short: "Check whether the host has what mvm needs; exit with 1 if something is missing", Args: cobra.NoArgs, Long: doctorHelp,
		Example: "  mvm doctor\n  mvm doctor --tenant alice"}
	out := command.OutputFlag(cmd)
	tenant := cmd.Flags().String("tenant", "", "check the channels of this `TENANT` instead of the host")
	_ = cmd.RegisterFlagCompletionFunc("tenant", a.CompleteTenants)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if cmd.Flags().Changed("tenant") {
			return a.doctorTenant(cmd, *tenant, *out)
		}
		url, err := a.RemoteURL()
		if err != nil {
			return err
		}
		if url != "" {
			return a.doctorThere(cmd, *out)
		}
		cfg, err := a.Settings(nil, true)
		if err != nil {
			return err
		}
		found := doctor.Host(ctx, doctor.Options{DataDir: cfg.DataDir, Hostd: cfg.Hostd.Socket, Driver: cfg.Driver, Hello: a.hello(cfg), Walls: a.walls(cfg), Flakes: a.flakes(cfg)})
		found = append(found, a.checkProduction(cfg)...)
		c, err := a.Peek(ctx)
		if err != nil {
			text, fix := command.TextOf(err)
			found = append(found, mvm.Finding{Severity: "warning", What: text, Fix: fix})
			return a.printFindings(*out, found)
		}
		defer c.Close()
		found = append(found, mvm.Finding{Severity: "ok", What: "agent answers at", Where: cfg.Socket})
		more, err := c.Doctor(ctx)
		if err != nil {
			return err
		}
		return a.printFindings(*out, append(found, more...))
	}
	return cmd
}

// doctorTenant has the agent check a tenant's channels.
func (a *app) doctorTenant(cmd *cobra.Command, tenant string, out command.Format) error {
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
		found, err := c.DoctorTenant(ctx, tenant)
		if err != nil {
			return err
		}
		return a.printFindings(out, found)
	})
}

// doctorThere has another machine's agent check its host.
func (a *app) doctorThere(cmd *cobra.Command, out command.Format) error {
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
		found, err := c.Doctor(ctx)
		if err != nil {
			return err
		}
		return a.printFindings(out, found)
	})
}
