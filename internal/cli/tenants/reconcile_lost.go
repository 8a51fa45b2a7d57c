package tenants

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

// confirmState asks before a desired state destroys something.
func (a *app) confirmState(cmd *cobra.Command, c *api.Client, req mvm.ReconcileRequest, yes bool) error {
	if len(req.State) == 0 || req.Dry || yes {
		return nil
	}
	ctx := a.Identified(cmd.Context())
	steps, err := c.Reconcile(ctx, mvm.ReconcileRequest{State: req.State, Dry: true}, nil)
	if err != nil {
		return err
	}
	var lost []string
	for _, s := range steps {
		if s.Action != "destroy" {
			continue
		}
		text, err := lostWith(ctx, c, s.Target)
		if err != nil {
			return err
		}
		lost = append(lost, text)
	}
	if len(lost) == 0 {
		return nil
	}
	return a.Confirm(cmd, false, "This destroys for good, because the state does not name it:\n  "+strings.Join(lost, "\n  "))
}

// lostWith says what goes with a tenant or a pool.
func lostWith(ctx context.Context, c *api.Client, target string) (string, error) {
	tenant, pool, ofPool := strings.Cut(target, "/")
	instances, err := c.Instances(ctx, mvm.Address{Tenant: tenant, Pool: pool})
	if err != nil {
		return "", err
	}
	if ofPool {
		return fmt.Sprintf("pool %s: %s", target, command.LostInstances(instances)), nil
	}
	t, _, err := c.Tenant(ctx, tenant)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("tenant %s: %s, %s", target, command.LostInstances(instances), command.Plural(len(t.SecretNames), "secret", "secrets")), nil
}
