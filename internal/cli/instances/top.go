package instances

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

const topHelp = `Show the CPU, memory, network and disk use of running and warm instances, busiest first. CPU
is in percent of one host CPU. MEMORY is the host memory that the VMM uses, and LIMIT the
guest's memory size. RX and TX (network), READ and WRITE (disk) are bytes per second. The
command measures the VMM processes, so it keeps no instance awake.

On a terminal the command refreshes until Ctrl-C and shows as many instances as fit. With a
pipe, a file, -o json or -o yaml it measures once, over one interval, and exits. --count
sets the number of measurements.
`

type topOptions struct {
	interval float64
	count    int
	out      *command.Format
}

func (a *app) topCmd() *cobra.Command {
	var o topOptions
	cmd := &cobra.Command{Use: "top [TENANT | TENANT/POOL] [flags]", Short: "Show the CPU, memory, network and disk use of instances", Long: topHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.CompletePools}
	f := cmd.Flags()
	f.Float64VarP(&o.interval, "interval", "d", 2, "`SECONDS` between two measurements, 0.1 to 3600")
	f.IntVarP(&o.count, "count", "n", 0, "exit after this many measurements; 0: on a terminal never, else after one")
	o.out = command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !(o.interval >= 0.1 && o.interval <= 3600) {
			return command.Usagef(cmd, "--interval %g is not in 0.1 to 3600", o.interval)
		}
		if o.count < 0 {
			return command.Usagef(cmd, "--count %d is less than 0", o.count)
		}
		filter, err := optionalAddress(args)
		if err != nil {
			return err
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error { return a.runTop(ctx, c, filter, o) })
	}
	return cmd
}

// rates is one line of top: what was used, and how fast over the interval.
type rates struct {
	mvm.InstanceUsage
	CPUPercent   float64 `json:"cpu_percent"`
	RxPerSec     int64   `json:"rx_bytes_per_second"`
	TxPerSec     int64   `json:"tx_bytes_per_second"`
	ReadPerSec   int64   `json:"disk_read_bytes_per_second"`
	WritePerSec  int64   `json:"disk_written_bytes_per_second"`
	IntervalSecs float64 `json:"interval_seconds"` // 0: it was not there at the look before
}

func (a *app) runTop(ctx context.Context, c *api.Client, filter mvm.Address, o topOptions) error {
	live := *o.out == command.AsTable && command.IsTerminal(a.Stdout) && a.Getenv("TERM") != "dumb"
	endless := live && o.count == 0
	before, err := c.Usage(ctx, filter)
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Duration(o.interval * float64(time.Second)))
	defer tick.Stop()
	for n := 0; endless || n < max(o.count, 1); n++ {
		select {
		case <-ctx.Done():
			return command.Followed(ctx, true, ctx.Err())
		case <-tick.C:
		}
		now, err := c.Usage(ctx, filter)
		if err != nil {
			return command.Followed(ctx, true, err)
		}
		if err := a.showTop(ratesOf(before, now), o, live, n > 0); err != nil {
			return err
		}
		before = now
	}
	return nil
}

// ratesOf compares two looks. The busiest comes first.
func ratesOf(before, now []mvm.InstanceUsage) []rates {
	was := map[string]mvm.InstanceUsage{}
	for _, u := range before {
		was[u.ID] = u
	}
	out := []rates{}
	for _, u := range now {
		r := rates{InstanceUsage: u}
		old, ok := was[u.ID]
		took := u.Measured.Sub(old.Measured).Seconds()
		if ok && took > 0 && u.Error == "" && old.Error == "" && u.CPU >= old.CPU { // less: it was started anew
			per := func(now, was int64) int64 { return int64(float64(max(0, now-was)) / took) }
			r.IntervalSecs, r.CPUPercent = took, 100*(u.CPU-old.CPU).Seconds()/took
			r.RxPerSec, r.TxPerSec = per(u.RxBytes, old.RxBytes), per(u.TxBytes, old.TxBytes)
			r.ReadPerSec, r.WritePerSec = per(u.DiskRead, old.DiskRead), per(u.DiskWritten, old.DiskWritten)
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b rates) int {
		switch {
		case a.CPUPercent != b.CPUPercent:
			return cmp.Compare(b.CPUPercent, a.CPUPercent)
		case a.RSSBytes != b.RSSBytes:
			return cmp.Compare(b.RSSBytes, a.RSSBytes)
		}
		return strings.Compare(a.Address().String(), b.Address().String())
	})
	return out
}

func (a *app) showTop(all []rates, o topOptions, live, again bool) error {
	switch {
	case *o.out != command.AsTable:
		return a.printLook(all, o)
	case !live:
		if again {
			if err := a.WriteText([]byte("\n")); err != nil {
				return err
			}
		}
		return a.Print(command.AsTable, all, func() command.Table { return topTable(all, len(all)) })
	}
	rows := 24
	if f, ok := command.Terminal(a.Stdout); ok {
		if _, h, err := term.GetSize(int(f.Fd())); err == nil {
			rows = h
		}
	}
	var text strings.Builder
	text.WriteString("\x1b[H\x1b[J") // home, and clear from there
	fmt.Fprintf(&text, "%s  %s, %s\n", a.Now().Format("15:04:05"), command.Plural(len(all), "instance holds memory", "instances hold memory"), totals(all))
	text.Write(topTable(all, max(1, rows-4)).Render(a.Color))
	if err := a.Out.Raw([]byte(text.String())); err != nil {
		return mvm.Errorf(mvm.KindInternal, "write output: %w", err)
	}
	return nil
}

// printLook prints one look: a list, or with a count of several an item each.
func (a *app) printLook(all []rates, o topOptions) error {
	if o.count > 1 {
		return a.PrintItem(*o.out, all)
	}
	return a.Print(*o.out, all, nil)
}

func totals(all []rates) string {
	var cpu float64
	var rss int64
	for _, r := range all {
		cpu += r.CPUPercent
		rss += r.RSSBytes
	}
	return fmt.Sprintf("%.0f%% of a CPU, %s of memory", cpu, command.Size(rss))
}

// topTable shows the first of the lines.
func topTable(all []rates, most int) command.Table {
	t := command.Table{Head: []string{"INSTANCE", "KEY", "STATE", "CPU%", "MEMORY", "LIMIT", "RX/S", "TX/S", "READ/S", "WRITE/S", "CONNS", "NOTE"}, None: "no instance holds memory"}
	for _, r := range all[:min(most, len(all))] {
		cpu, rate := "-", func(int64) string { return "-" }
		if r.IntervalSecs > 0 {
			cpu, rate = fmt.Sprintf("%.1f", r.CPUPercent), command.Size
		}
		t.Add(r.Address().String(), command.Dash(r.Key), string(r.State), cpu, command.Size(r.RSSBytes), command.Size(int64(r.MemMiB)<<20),
			rate(r.RxPerSec), rate(r.TxPerSec), rate(r.ReadPerSec), rate(r.WritePerSec), strconv.Itoa(r.Connections), r.Error)
	}
	if n := len(all) - most; n > 0 {
		t.Add(fmt.Sprintf("and %d more", n))
	}
	return t
}
