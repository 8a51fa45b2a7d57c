// Package tenants has the commands on what is declared: tenants with their secrets, pools,
// manifests and desired states.
package tenants

import (
	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
)

// app is one run of the command line, with the commands of this package.
type app struct{ *command.App }

// Commands are the commands of this package.
type Commands struct {
	New, Templates, Deploy, Connect, Tenant, Pool, Inbox, Desired *cobra.Command
	// OfAgent belong below the command agent.
	OfAgent []*cobra.Command
}

// New makes the commands.
func New(run *command.App) Commands {
	a := &app{run}
	return Commands{New: a.newCmd(), Templates: a.templatesCmd(), Deploy: a.deployCmd(), Connect: a.connectCmd(), Tenant: a.tenantCmd(), Pool: a.poolCmd(), Inbox: a.inboxCmd(), Desired: a.desiredCmd(),
		OfAgent: []*cobra.Command{a.agentReconcileCmd(), a.agentDesiredCmd()}}
}
