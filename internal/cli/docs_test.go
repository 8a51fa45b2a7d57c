package cli_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mvm/internal/cli"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

const docsHead = `# The mvm command

This page lists every command and flag of mvm. A first session:

` + "```" + `
mvm doctor                        # does the host have what mvm needs?
mvm new minimal alice             # create a tenant from a template
mvm connect alice                 # show how to reach it
mvm ps                            # list instances and their states
mvm tenant destroy alice
` + "```" + `

` + "`mvm help COMMAND`" + ` prints the same texts. The page is generated from them:
` + "`go test ./internal/cli -run Docs -update`" + `. The scripts in ` + "`test/script`" + ` show, and test, how
the commands work together.

## Exit codes

| code | meaning |
|---|---|
EXITCODES
` + "`mvm exec`" + ` exits with the exit code of the command that it ran.

## Output

Data goes to stdout; progress and messages go to stderr. Every list, info and stats command
has ` + "`-o table|json|yaml`" + `. With ` + "`-o json`, `logs`" + ` and ` + "`events`" + ` print one JSON object per line. Only
terminals get colour, and ` + "`NO_COLOR`" + ` turns it off.

Output can contain text from guests, tenants and their clients. mvm prints characters that
would control the terminal or that nobody could see (control characters, escape sequences,
bidirectional overrides, zero-width characters, invalid UTF-8) as escapes: ` + "`\\x1b`, `\\u202e`, `\\xff`" + `.
In JSON and YAML they are escapes of the format, so a program reads the original text.

` + "`mvm logs` and `mvm exec`" + ` write the output of guests to a pipe or file unchanged. On a
terminal they show colours, and other control characters as escapes. With ` + "`NO_COLOR`, `mvm logs`" + `
shows colours as escapes too. ` + "`mvm exec --tty`" + ` passes everything to the terminal.

## The agent

Most commands need the agent of this host, or with ` + "`--remote`" + ` the agent of another host
([remote.md](remote.md)). If no agent answers on this host and you are root, mvm starts one in the
background. Its log is ` + "`agent.log`" + ` in the data folder. ` + "`--no-autostart`" + ` or
` + "`MVM_NO_AUTOSTART=1`" + ` turns that off.

Ctrl-C stops the command. The agent still finishes an operation on an instance, and a deploy
or reconcile that it has stored. A build continues: see ` + "`mvm builds`" + `. A command of exec is stopped. A second Ctrl-C
ends mvm at once.
`

func root() *cobra.Command {
	return cli.New(cli.Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard,
		Getenv: func(string) string { return "" }, Now: time.Now})
}

func TestDocsAreThoseOfTheProgram(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(strings.Replace(docsHead, "EXITCODES\n", exitCodes(root().Long), 1))
	b.WriteString("\n## Flags of every command\n\n")
	flags(&b, root().PersistentFlags())
	b.WriteString("\n## Commands\n")
	document(&b, root())
	path := filepath.Join("..", "..", "docs", "cli.md")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("docs/cli.md is not up to date, run go test ./internal/cli -run Docs -update (-want +got):\n%s", diff)
	}
}

// exitCodes has a row for each exit code that the help lists.
func exitCodes(help string) (rows string) {
	_, codes, _ := strings.Cut(help, "\nExit codes:\n")
	for line := range strings.Lines(codes) {
		code, meaning, _ := strings.Cut(strings.TrimSpace(line), " ")
		rows += "| " + code + " | " + strings.TrimSpace(meaning) + " |\n"
	}
	return rows + "\n"
}

// document writes a section for every command that does something.
func document(b *bytes.Buffer, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.Hidden {
			continue
		}
		if !c.HasSubCommands() || !strings.HasSuffix(c.Use, " COMMAND") {
			section(b, c)
		}
		document(b, c)
	}
}

func section(b *bytes.Buffer, c *cobra.Command) {
	fmt.Fprintf(b, "\n### %s\n\n", c.CommandPath())
	long, _, _ := strings.Cut(c.Long, "\nExit codes:")
	fmt.Fprintf(b, "```\n%s\n```\n\n%s\n", c.UseLine(), prose(long))
	if c.Example != "" {
		fmt.Fprintf(b, "\n```\n%s\n```\n", c.Example)
	}
	if c.LocalNonPersistentFlags().HasAvailableFlags() {
		b.WriteString("\n")
		flags(b, c.LocalNonPersistentFlags())
	}
}

// prose keeps indented blocks as they are.
func prose(s string) string {
	var out []string
	for _, line := range strings.Split(strings.TrimSpace(s), "\n") {
		if strings.HasPrefix(line, "  ") {
			line = "  " + line
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func flags(b *bytes.Buffer, f *pflag.FlagSet) {
	b.WriteString("| flag | meaning |\n|---|---|\n")
	f.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || f.Hidden {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		short := ""
		if f.Shorthand != "" {
			short = "-" + f.Shorthand + ", "
		}
		flag := strings.TrimSpace(short + "--" + f.Name + " " + name)
		def := ""
		if f.DefValue != "" && f.DefValue != "0" && f.DefValue != "false" && f.DefValue != "[]" {
			def = " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, "| `%s` | %s%s |\n", strings.ReplaceAll(flag, "|", "\\|"), usage, def)
	})
}
