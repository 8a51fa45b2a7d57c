package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

// complete asks the agent, if one answers quickly, for names to complete with.
func (a *App) complete(cmd *cobra.Command, ask func(ctx context.Context, c *api.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	c, _, err := a.Dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	names, err := ask(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	// Shells expand candidates, bash also commands in them: names have nothing to expand.
	return slices.DeleteFunc(names, func(n string) bool { return !Plain(n) }), cobra.ShellCompDirectiveNoFileComp
}

func (a *App) CompleteTenants(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *api.Client) (names []string, err error) {
		ts, err := c.Tenants(ctx)
		for _, t := range ts {
			names = append(names, t.ID)
		}
		return names, err
	})
}

func (a *App) CompletePools(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *api.Client) (names []string, err error) {
		ps, err := c.Pools(ctx, "")
		for _, p := range ps {
			names = append(names, p.Address().String())
		}
		return names, err
	})
}

func (a *App) CompleteInstances(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *api.Client) (names []string, err error) {
		is, err := c.Instances(ctx, mvm.Address{})
		for _, i := range is {
			names = append(names, i.Address().String())
		}
		return names, err
	})
}

// CompleteBuilds completes with ids of builds.
func (a *App) CompleteBuilds(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := c.Builds(ctx, "")
		for _, r := range all {
			names = append(names, r.ID)
		}
		return names, err
	})
}

// Plain reports whether a word means itself to every shell.
func Plain(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(plainWord, r) })
}

// plainWord are the characters that mean nothing to any shell.
const plainWord = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+,="
