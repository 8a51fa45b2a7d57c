package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/muesli/cancelreader"
	"github.com/spf13/cobra"

	"mvm"
)

// YesFlag adds --yes to a command that destroys.
func YesFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().BoolP("yes", "y", false, "do not ask")
}

// Confirm asks before something is lost. Without a terminal to ask at, only --yes does.
func (a *App) Confirm(cmd *cobra.Command, yes bool, lost string) error {
	if yes {
		return nil
	}
	a.SayLines(strings.Split(lost, "\n"))
	if !IsTerminal(a.Stdin) {
		return mvm.Errorf(mvm.KindInvalid, "%s needs a confirmation, and there is no terminal to ask at", nameOf(cmd)).
			WithFix("use --yes to confirm")
	}
	fmt.Fprint(a.Stderr, "Go on? [y/N] ")
	in, err := cancelreader.NewReader(a.Stdin)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "open stdin: %w", err)
	}
	defer func() { _ = in.Close() }()
	defer context.AfterFunc(cmd.Context(), func() { in.Cancel() })()
	answer, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return mvm.Errorf(mvm.KindInternal, "read answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return mvm.Errorf(mvm.KindCanceled, "nothing was changed")
}

// LostInstances says what destroying the instances would lose.
func LostInstances(is []mvm.Instance) string {
	disks, mib, memories := 0, 0, 0
	for _, i := range is {
		if i.Res.DataDiskMiB > 0 {
			disks, mib = disks+1, mib+i.Res.DataDiskMiB
		}
		if i.State.HoldsMemory() || i.State == mvm.StateSleeping {
			memories++
		}
	}
	s := Plural(len(is), "instance", "instances")
	if disks > 0 {
		s += fmt.Sprintf(" with %s (%s)", Plural(disks, "data disk", "data disks"), Size(int64(mib)<<20))
	}
	if memories > 0 {
		s += fmt.Sprintf(", the memory of %d of them (running, warm or sleeping)", memories)
	}
	return s
}
