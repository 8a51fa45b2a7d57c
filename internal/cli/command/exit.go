package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mvm"
)

// ExitStatus ends mvm with the code of a command in a guest, and says nothing.
type ExitStatus int

// Error describes the status.
func (e ExitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Interrupted is the status of what goes on until it is interrupted.
const Interrupted ExitStatus = 130

// Followed is the end of such a command: that it was interrupted is nothing to tell. What
// failed otherwise is told, also when an interrupt came right after it.
func Followed(ctx context.Context, follow bool, err error) error {
	if follow && ctx.Err() != nil && (mvm.IsKind(err, mvm.KindCanceled) || errors.Is(err, ctx.Err())) {
		return Interrupted
	}
	return err
}

// ExitCode is the one place where errors become exit codes (formats.md section 8).
func ExitCode(err error) int {
	var status ExitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	switch mvm.KindOf(err) {
	case "":
		return 0
	case mvm.KindInvalid:
		return 2
	case mvm.KindNotFound:
		return 3
	case mvm.KindExists, mvm.KindQuota, mvm.KindPolicy, mvm.KindState:
		return 4
	case mvm.KindLeftAlone:
		return 6
	case mvm.KindUnavailable:
		if answered(err) && !errors.Is(err, mvm.ErrAway) { // it is something else that is not available
			return 1
		}
		return 5
	case mvm.KindCanceled:
		return 130
	}
	return 1
}

// answered reports that the error is what an agent answered.
func answered(err error) bool {
	var e *mvm.Error
	return errors.As(err, &e) && e.Request != ""
}

// TextOf splits an error into what to say and what to do about it.
func TextOf(err error) (text, fix string) {
	var status ExitStatus
	if errors.As(err, &status) {
		return "", ""
	}
	var e *mvm.Error
	if !errors.As(err, &e) {
		return err.Error(), ""
	}
	return strings.Replace(err.Error(), " ("+e.Fix+")", "", 1), e.Fix
}

// UsageOf makes an error of wrong usage.
func UsageOf(cmd *cobra.Command, err error) error {
	return mvm.Errorf(mvm.KindInvalid, "%w", err).WithFix("see `%s --help`", cmd.CommandPath())
}

// FlagError says of a flag's value what it should have been.
func FlagError(err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	want := map[string]string{"int": "a whole number", "float64": "a number", "int64": "a whole number", "intSlice": "whole numbers with commas between",
		"duration": "a time such as 90s or 2h", "bool": "true or false"}[bad.GetFlag().Value.Type()]
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("--%s %s: it is too large or too small", bad.GetFlag().Name, bad.GetValue())
	case want == "":
		return err
	}
	return fmt.Errorf("--%s %q is not %s", bad.GetFlag().Name, bad.GetValue(), want)
}

func Usagef(cmd *cobra.Command, format string, args ...any) error {
	return UsageOf(cmd, fmt.Errorf(format, args...))
}

// Group runs a command that only holds others.
func Group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		cmd.SetOut(cmd.ErrOrStderr())
		if err := cmd.Help(); err != nil {
			return mvm.Errorf(mvm.KindInternal, "print help: %w", err)
		}
		return ExitStatus(2)
	}
	err := Usagef(cmd, "%s has no command %q", nameOf(cmd), args[0])
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		return mvm.Errorf(mvm.KindInvalid, "%s has no command %q", nameOf(cmd), args[0]).
			WithFix("did you mean `%s %s`?", cmd.CommandPath(), s[0])
	}
	return err
}

// Finish makes every command say what arguments it takes when it gets others, and
// the exit codes in its help.
func Finish(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return mvm.Errorf(mvm.KindInvalid, "%s: wrong arguments: %w", nameOf(c), err).WithFix("use it as `%s`", c.UseLine())
			}
			return nil
		}
	}
	if run := cmd.RunE; cmd.Annotations[localOnly] != "" {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("remote") {
				return mvm.Errorf(mvm.KindInvalid, "%s: --remote does not apply: this command works on the files of this host and asks no agent", nameOf(c)).
					WithFix("run it on the other machine, without --remote")
			}
			return run(c, args)
		}
	}
	if cmd.HasParent() {
		if cmd.Long == "" {
			cmd.Long = cmd.Short + ".\n"
		}
		cmd.Long += ExitHelp
	}
	cmd.DisableFlagsInUseLine = true
	for _, c := range cmd.Commands() {
		Finish(c)
	}
}

// localOnly marks commands that work on this host and ask no agent.
const localOnly = "local"

// Local marks the commands as such.
func Local(cmds ...*cobra.Command) []*cobra.Command {
	for _, c := range cmds {
		c.Annotations = map[string]string{localOnly: "yes"}
	}
	return cmds
}

// nameOf is the command as it is called, without "mvm " before it.
func nameOf(cmd *cobra.Command) string { return strings.TrimPrefix(cmd.CommandPath(), "mvm ") }
