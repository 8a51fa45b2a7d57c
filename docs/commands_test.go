// Package docs_test keeps the documentation true: the commands that it shows exist.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mvm/internal/cli"
)

// command is one command line of a document.
type command struct {
	where string
	words []string
}

// inline finds `mvm …` within a sentence.
var inline = regexp.MustCompile("`((?:sudo )?mvm [^`]+)`")

// commands returns the mvm commands of a document: in its blocks of code, one per
// line, and within sentences.
func commands(path, text string) []command {
	var all []command
	add := func(line string) {
		if w := words(line); len(w) > 0 {
			all = append(all, command{filepath.Base(path), w})
		}
	}
	block := false
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "```") {
			block = !block
			continue
		}
		if block {
			for part := range strings.SplitSeq(trimmed, "| ") { // of a pipe, each
				add(part)
			}
			continue
		}
		for _, m := range inline.FindAllStringSubmatch(line, -1) {
			add(m[1])
		}
	}
	return all
}

// words returns what follows mvm on a command line, nil when it is another command.
func words(line string) []string {
	if strings.ContainsAny(line, "─►│├└") {
		return nil // a drawing
	}
	line = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), "$ "), "# ")
	fields := strings.Fields(line)
	for len(fields) > 0 && (fields[0] == "sudo" || strings.Contains(fields[0], "=")) {
		fields = fields[1:]
	}
	if len(fields) == 0 || fields[0] != "mvm" && !strings.HasSuffix(fields[0], "/mvm") {
		return nil
	}
	for i, f := range fields {
		if strings.HasPrefix(f, "#") || f == "|" || f == "&&" || f == ";" || f == ">" || f == "&" || f == "—" {
			return fields[1:i]
		}
	}
	return fields[1:]
}

// check walks the command tree along the words and returns what is wrong.
func check(root *cobra.Command, words []string) string {
	cmd := root
	for i := 0; i < len(words); i++ {
		w := strings.Trim(words[i], "[]`,;:()")
		switch {
		case w == "--":
			return ""
		case strings.HasPrefix(w, "-") && w != "-":
			name, _, hasValue := strings.Cut(w, "=")
			f := flag(cmd, name)
			if f == nil {
				return cmd.CommandPath() + " has no flag " + name
			}
			if !hasValue && f.NoOptDefVal == "" {
				i++
			}
		case !cmd.HasSubCommands(), strings.Contains(cmd.Use, " [TENANT") && sub(cmd, w) == nil:
			continue // an argument
		default:
			next := sub(cmd, w)
			if next == nil {
				if strings.ContainsAny(w, "<…|*") {
					return "" // a placeholder for a verb
				}
				return cmd.CommandPath() + " has no command " + w
			}
			cmd = next
		}
	}
	return ""
}

func sub(cmd *cobra.Command, name string) *cobra.Command {
	for _, c := range cmd.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return c
		}
	}
	return nil
}

func flag(cmd *cobra.Command, name string) *pflag.Flag {
	cmd.InitDefaultHelpFlag()
	for c := cmd; c != nil; c = c.Parent() {
		for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
			if long, ok := strings.CutPrefix(name, "--"); ok {
				if f := set.Lookup(long); f != nil {
					return f
				}
			} else if len(name) == 2 {
				if f := set.ShorthandLookup(name[1:]); f != nil {
					return f
				}
			}
		}
	}
	return nil
}

func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "*.md", "*/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, paths...)
	}
	return all
}

func tree() *cobra.Command {
	return cli.New(cli.Env{Stdin: strings.NewReader(""), Stdout: os.Stderr, Stderr: os.Stderr, Getenv: func(string) string { return "" }})
}

func TestCommandsExist(t *testing.T) {
	n := 0
	for _, path := range documents(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands(path, string(b)) {
			n++
			if wrong := check(tree(), c.words); wrong != "" {
				t.Errorf("%s: mvm %s: %s", c.where, strings.Join(c.words, " "), wrong)
			}
		}
	}
	if len(documents(t)) > 0 && n == 0 {
		t.Error("the documents show no command at all")
	}
}

// TestCheck: the check itself sees what is wrong.
func TestCheck(t *testing.T) {
	for line, want := range map[string]string{
		"mvm tenant list -o json":                      "",
		"$ sudo ./bin/mvm --socket /tmp/x tenant list": "",
		"mvm tenant lst":                               "mvm tenant has no command lst",
		"mvm tenant list --nonsense":                   "mvm tenant list has no flag --nonsense",
		"mvm frobnicate":                               "mvm has no command frobnicate",
		"mvm exec acme/w@ann -- ls --nonsense":         "",
	} {
		if got := check(tree(), words(line)); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	if got := words("mvm-guest --version"); got != nil {
		t.Errorf("words of another command: %q", got)
	}
}
