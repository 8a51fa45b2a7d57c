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

const inboxHelp = `A gateway keeps the messages of Slack, WhatsApp, LINE and webhooks on its data disk until a worker
has taken them. A message that the worker refuses again and again is set aside.

MESSAGE is a number from the list, or POOL/NUMBER if several gateway pools of the tenant keep
messages. The gateway must be running.
`

func (a *app) inboxCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "inbox COMMAND", Short: "Messages of chats that wait for a worker or were set aside", Long: inboxHelp, Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(a.inboxListCmd(), a.inboxShowCmd(), a.inboxRetryCmd(), a.inboxDropCmd())
	return cmd
}

func (a *app) inboxListCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "list TENANT [-o FORMAT]", Aliases: []string{"ls"}, Short: "List the messages that are kept, without their text",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			all, err := c.Messages(ctx, args[0])
			if err != nil {
				return err
			}
			return a.Print(*out, all, func() command.Table { return a.messageTable(all) })
		})
	}
	return cmd
}

func (a *app) messageTable(all []mvm.Message) command.Table {
	t := command.Table{Head: []string{"MESSAGE", "CHANNEL", "CHAT", "SIZE", "RECEIVED", "STATE", "TRIES", "WHY"}, None: "no messages are kept"}
	for _, m := range all {
		t.Add(messageName(m), m.Channel, m.Chat, command.Size(int64(m.Size)), a.Ago(m.Received), messageState(m), fmt.Sprint(m.Refusals+m.Errors), m.Why)
	}
	return t
}

func messageName(m mvm.Message) string { return fmt.Sprintf("%s/%d", m.Pool, m.Number) }

func messageState(m mvm.Message) string {
	if m.SetAside {
		return "set aside"
	}
	return "waiting"
}

func (a *app) inboxShowCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "show TENANT MESSAGE [-o FORMAT]", Short: "Show a message with its text, which the audit log records",
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.CompleteTenants}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onMessage(cmd, args[0], args[1], func(ctx context.Context, c *api.Client, pool string, number int64) error {
			m, err := c.Message(ctx, args[0], pool, number)
			if err != nil {
				return err
			}
			return a.Print(*out, m, func() command.Table {
				lines := []string{
					fmt.Sprintf("message %s of channel %s, %s", messageName(m), m.Channel, messageState(m)),
					"id " + m.ID, "sender " + m.Sender, "chat " + m.Chat,
					fmt.Sprintf("received %s (%s)", a.Ago(m.Received), m.Received.Local().Format("2006-01-02 15:04:05")),
				}
				if m.Why != "" {
					lines = append(lines, fmt.Sprintf("refused %d times, failed %d times: %s", m.Refusals, m.Errors, m.Why))
				}
				return command.Prose(append(lines, "", string(m.Body)))
			})
		})
	}
	return cmd
}

func (a *app) inboxRetryCmd() *cobra.Command {
	return a.messagesCmd(&cobra.Command{Use: "retry TENANT MESSAGE...", Short: "Try messages again at once, also those set aside"},
		func(ctx context.Context, c *api.Client, tenant, pool string, number int64) error {
			if err := c.RetryMessage(ctx, tenant, pool, number); err != nil {
				return err
			}
			a.Say("message %s/%d is tried again", pool, number)
			return nil
		})
}

func (a *app) inboxDropCmd() *cobra.Command {
	cmd := a.messagesCmd(&cobra.Command{Use: "drop TENANT MESSAGE... [--yes]", Short: "Give messages up"},
		func(ctx context.Context, c *api.Client, tenant, pool string, number int64) error {
			if err := c.DropMessage(ctx, tenant, pool, number); err != nil {
				return err
			}
			a.Say("message %s/%d is dropped", pool, number)
			return nil
		})
	yes, run := command.YesFlag(cmd), cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.Confirm(cmd, *yes, fmt.Sprintf("This permanently removes messages of %s that no worker has: %s.", args[0], strings.Join(args[1:], ", "))); err != nil {
			return err
		}
		return run(cmd, args)
	}
	return cmd
}

// messagesCmd does something with each of the messages.
func (a *app) messagesCmd(cmd *cobra.Command, do func(ctx context.Context, c *api.Client, tenant, pool string, number int64) error) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = cobra.MinimumNArgs(2), a.CompleteTenants
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var errs []error
		for _, name := range args[1:] {
			errs = append(errs, a.onMessage(cmd, args[0], name, func(ctx context.Context, c *api.Client, pool string, number int64) error {
				return do(ctx, c, args[0], pool, number)
			}))
		}
		return a.FirstOf(errs)
	}
	return cmd
}

// onMessage finds the pool of the message that is named NUMBER or POOL/NUMBER.
func (a *app) onMessage(cmd *cobra.Command, tenant, name string, f func(ctx context.Context, c *api.Client, pool string, number int64) error) error {
	pool, text, named := strings.Cut(name, "/")
	if !named {
		pool, text = "", name
	}
	number, err := mvm.ParseMessageNumber(text)
	if err != nil {
		return err
	}
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
		if !named {
			pools, err := c.Pools(ctx, tenant)
			if err != nil {
				return err
			}
			if pool, err = keepingPool(tenant, pools); err != nil {
				return err
			}
		}
		return f(ctx, c, pool, number)
	})
}

// keepingPool is the only pool with channels that keep messages.
func keepingPool(tenant string, pools []mvm.Pool) (string, error) {
	var found []string
	for _, p := range pools {
		if p.Spec.Keeps() {
			found = append(found, p.Spec.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", mvm.Errorf(mvm.KindNotFound, "tenant %s has no channel that keeps messages", tenant)
	case 1:
		return found[0], nil
	}
	return "", mvm.Errorf(mvm.KindInvalid, "pools %s of tenant %s keep messages", strings.Join(found, ", "), tenant).WithFix("name the message POOL/NUMBER")
}
