package instances

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

// operation is a verb that moves an instance to another state.
type operation struct {
	kind  mvm.OpKind
	short string
	long  string
	force string // help of --force, where the verb has it
	waits bool   // for services
	all   string // help of --all, where the verb has it
}

func operations() []operation {
	return []operation{
		{kind: mvm.OpStart, short: "Start instances and wait until they are ready", long: command.TimeoutHelp, waits: true},
		{kind: mvm.OpStop, short: "Shut instances down; disks stay, memory is lost", force: "end the VMM without waiting for the guest to shut down",
			all: "all running and warm instances, workers first"},
		{kind: mvm.OpRestart, short: "Stop instances and boot them from their disks; memory is lost",
			long: "They boot with the pool's current image, sizes and environment. A stopped instance is started.\n" + command.TimeoutHelp, waits: true,
			force: "end the VMM without waiting for the guest to shut down"},
		{kind: mvm.OpWarm, short: "Pause instances; their memory stays in the host's memory"},
		{kind: mvm.OpResume, short: "Resume warm instances"},
		{kind: mvm.OpSleep, short: "Put instances to sleep: write their memory to disk and end the VMM",
			long:  "A running instance is drained first: its workload finishes its requests, and its\nintegrations are checkpointed.\n",
			force: "do not wait for requests to finish, and sleep even if a critical integration can't be checkpointed", all: "all running and warm instances, workers first; use it before a restart of the host"},
		{kind: mvm.OpWake, short: "Wake sleeping instances", long: command.TimeoutHelp, waits: true},
	}
}

const goesOn = `If you interrupt the command, the agent still finishes the operation.
`

func (a *app) operateCmd(op operation) *cobra.Command {
	cmd := &cobra.Command{Use: fmt.Sprintf("%s INSTANCE... [flags]", op.kind), Short: op.short, Long: op.short + ".\n" + op.long + "\n" + goesOn,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.CompleteInstances}
	var all bool
	if op.all != "" {
		cmd.Use = fmt.Sprintf("%s {INSTANCE... | --all} [flags]", op.kind)
		cmd.Flags().BoolVar(&all, "all", false, op.all)
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if all {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		}
	}
	var force bool
	if op.force != "" {
		cmd.Flags().BoolVar(&force, "force", false, op.force)
	}
	limit := new(time.Duration)
	if op.waits {
		limit = command.TimeoutFlag(cmd)
	}
	why := cmd.Flags().String("why", "", "`REASON` to record for mvm why and the audit log")
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := command.CheckTimeout(cmd, *limit, true); op.waits && err != nil {
			return err
		}
		return a.onEach(cmd, args, func(ctx context.Context, c *api.Client, addrs []mvm.Address) error {
			req := mvm.OpRequest{Op: op.kind, Force: force, Why: *why}
			if all {
				return a.operateAll(ctx, c, req, *limit, *out)
			}
			return a.runOperate(ctx, c, addrs, req, *limit, *out)
		})
	}
	return cmd
}

// allPasses is how often what is awake is looked at anew: requests wake instances while
// others are put to rest.
const allPasses = 3

// operateAll does the operation on all that holds memory, until nothing does.
func (a *app) operateAll(ctx context.Context, c *api.Client, req mvm.OpRequest, limit time.Duration, out command.Format) error {
	addrs, err := awake(ctx, c)
	if err != nil {
		return err
	}
	var failed error
	for range allPasses {
		failed = a.runOperate(ctx, c, addrs, req, limit, out)
		if len(addrs) == 0 || ctx.Err() != nil {
			return failed
		}
		if addrs, err = awake(ctx, c); err != nil || len(addrs) == 0 {
			return err
		}
	}
	if failed != nil {
		return failed
	}
	return mvm.Errorf(mvm.KindState, "%s --all: %d instances were woken again by requests", req.Op, len(addrs)).
		WithFix("stop the clients that send requests, and run the command again")
}

// awake lists the instances that run or are warm, workers before the gateways that lead to
// them.
func awake(ctx context.Context, c *api.Client) ([]mvm.Address, error) {
	is, err := c.Instances(ctx, mvm.Address{})
	if err != nil {
		return nil, err
	}
	is = slices.DeleteFunc(is, func(i mvm.Instance) bool { return !i.State.HoldsMemory() })
	slices.SortStableFunc(is, func(a, b mvm.Instance) int { return cmp.Compare(b.Role.Priority(), a.Role.Priority()) })
	addrs := make([]mvm.Address, len(is))
	for n, i := range is {
		addrs[n] = i.Address()
	}
	return addrs, nil
}

// runOperate does the operation on each instance, goes on after an error, and fails
// in the end with the first one.
func (a *app) runOperate(ctx context.Context, c *api.Client, addrs []mvm.Address, req mvm.OpRequest, limit time.Duration, out command.Format) error {
	var done []mvm.Instance
	var errs []error
	p := a.NewProgress()
	defer p.Done()
	began := time.Now()
	for _, at := range addrs {
		var i mvm.Instance
		left := limit // of the one limit for all
		if limit > 0 {
			left = max(limit-time.Since(began), time.Nanosecond)
		}
		err := command.Within(ctx, left, string(req.Op)+" "+at.String(), p, func(ctx context.Context) (err error) {
			i, err = c.Operate(ctx, at, req, p.Show)
			return err
		})
		p.Done()
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		a.Say("%s is %s%s", i.Address(), i.State, command.TookText(i))
		done = append(done, i)
	}
	if out != command.AsTable {
		errs = append(errs, a.Print(out, done, nil))
	}
	return a.FirstOf(errs)
}

// instanceAddresses are those of instances by their own names: what is lost for good is not
// named by its pool.
func instanceAddresses(cmd *cobra.Command, args []string) ([]mvm.Address, error) {
	var addrs []mvm.Address
	for _, arg := range args {
		at, err := mvm.ParseAddress(arg)
		if err != nil {
			return nil, err
		}
		if at.Instance == "" && at.Key == "" {
			return nil, command.Usagef(cmd, "%q does not name an instance; use tenant/pool/instance, tenant/pool@key or an instance id", arg)
		}
		addrs = append(addrs, at)
	}
	return addrs, nil
}

func (a *app) instanceDestroyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "destroy INSTANCE... [--yes]", Short: "Destroy instances, with their disks and memory",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.CompleteInstances}
	yes := command.YesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		addrs, err := instanceAddresses(cmd, args)
		if err != nil {
			return err
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			return a.runInstanceDestroy(ctx, cmd, c, addrs, *yes)
		})
	}
	return cmd
}

func (a *app) runInstanceDestroy(ctx context.Context, cmd *cobra.Command, c *api.Client, addrs []mvm.Address, yes bool) error {
	var is []mvm.Instance
	for _, at := range addrs {
		i, err := c.Instance(ctx, at)
		if err != nil {
			return err
		}
		is = append(is, i)
	}
	if err := a.Confirm(cmd, yes, fmt.Sprintf("This destroys for good: %s.", command.LostInstances(is))); err != nil {
		return err
	}
	p := a.NewProgress()
	defer p.Done()
	var errs []error
	for _, i := range is {
		if _, err := c.Operate(ctx, i.Address(), mvm.OpRequest{Op: mvm.OpDestroy}, p.Show); err != nil {
			errs = append(errs, err)
			continue
		}
		p.Done()
		a.Say("%s destroyed", i.Address())
	}
	return a.FirstOf(errs)
}
