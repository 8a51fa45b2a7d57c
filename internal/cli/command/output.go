package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"mvm"
	"mvm/internal/display"
)

// Format is how data is printed: table, json or yaml.
type Format string

const (
	AsTable Format = "table"
	AsJSON  Format = "json"
	asYAML  Format = "yaml"
	AsWide  Format = "wide" // a table with more columns
)

// String is the format as the flag has it.
func (f *Format) String() string { return string(*f) }

// Set takes one of the formats.
func (f *Format) Set(s string) error {
	switch Format(s) {
	case AsTable, AsJSON, asYAML:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("output must be table, json or yaml")
}

// Type names the flag's value in help.
func (f *Format) Type() string { return "table|json|yaml" }

// wideFormat is a format that may also be wide.
type wideFormat struct{ *Format }

// Set takes one of the formats.
func (f wideFormat) Set(s string) error {
	if s == string(AsWide) {
		*f.Format = AsWide
		return nil
	}
	if f.Format.Set(s) != nil {
		return fmt.Errorf("output must be table, wide, json or yaml")
	}
	return nil
}

// Type names the flag's value in help.
func (wideFormat) Type() string { return "table|wide|json|yaml" }

// WideFlag adds -o, with wide, to a command.
func WideFlag(cmd *cobra.Command) *Format {
	f := AsTable
	cmd.Flags().VarP(wideFormat{&f}, "output", "o", "output format")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	return &f
}

// OutputFlag adds -o to a command.
func OutputFlag(cmd *cobra.Command) *Format {
	f := AsTable
	cmd.Flags().VarP(&f, "output", "o", "output format")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	return &f
}

// Table is rows under a head; a table without a head is fields and values.
type Table struct {
	Head []string
	rows [][]string
	None string // said on stderr when there are no rows
}

func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// Prose makes a table of lines.
func Prose(lines []string) Table {
	var t Table
	for _, l := range lines {
		t.Add(l)
	}
	return t
}

// Print writes v as the user asked. The table is only made when it is wanted.
func (a *App) Print(f Format, v any, t func() Table) error {
	var out []byte
	switch f {
	case AsJSON, asYAML:
		var err error
		if out, err = Encode(f, v); err != nil {
			return err
		}
	default:
		tab := t()
		if len(tab.rows) == 0 && tab.None != "" {
			a.Say("%s", tab.None)
			return nil
		}
		out = tab.Render(a.Color)
	}
	if err := a.Out.Raw(out); err != nil {
		return mvm.Errorf(mvm.KindInternal, "write output: %w", err)
	}
	return nil
}

func Encode(f Format, v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "encode output: %w", err)
	}
	if f == AsJSON {
		return append(display.JSON(b), '\n'), nil
	}
	// JSON is YAML, so names and their order stay, once controls that JSON allows in
	// strings are escapes.
	var node yaml.Node
	if err := yaml.Unmarshal(display.YAML(b), &node); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "encode output: %w", err)
	}
	blockStyle(&node)
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "encode output: %w", err)
	}
	return display.YAML(buf.Bytes()), nil
}

func blockStyle(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode && len(n.Content) > 0 {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		if n.Style &^= yaml.DoubleQuotedStyle; needsQuotes(n.Value) {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// needsQuotes reports whether a value has a character that must be an escape, which it can
// be in double quotes only, or several lines that a block would not bring back.
func needsQuotes(s string) bool {
	escape := func(r rune) bool { return display.Hidden(r) && r != '\n' && r != '\t' }
	return strings.ContainsFunc(s, escape) || strings.Contains(s, "\n") && strings.TrimLeft(s, " \t\n") != s
}

// Render lays the table out in columns.
func (t Table) Render(color bool) []byte {
	all := t.rows
	if t.Head != nil {
		all = append([][]string{t.Head}, t.rows...)
	}
	var width []int
	for _, row := range all {
		for i := range row {
			cell := display.Line(row[i])
			row[i] = cell
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b bytes.Buffer
	for n, row := range all {
		line := ""
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2)
			line += paint(cell, color, t.Head != nil && n == 0) + pad
		}
		b.WriteString(strings.TrimRight(line, " "))
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// paint colours heads and states.
func paint(s string, color, head bool) string {
	code := ""
	switch {
	case !color:
		return s
	case head:
		code = "2"
	case s == string(mvm.StateRunning), s == "ok":
		code = "32"
	case s == string(mvm.StateWarm), s == "warning":
		code = "33"
	case s == string(mvm.StateSleeping):
		code = "34"
	case s == "error":
		code = "31"
	default:
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Say tells a person something, on stderr. What the arguments say stays on one line.
func (a *App) Say(format string, args ...any) {
	for i, arg := range args {
		switch arg.(type) {
		case int, int64:
		default:
			args[i] = display.Line(fmt.Sprint(arg))
		}
	}
	fmt.Fprintf(a.Stderr, format+"\n", args...)
}

// SayLines tells a person several lines.
func (a *App) SayLines(lines []string) {
	for _, l := range lines {
		a.Say("%s", l)
	}
}

// WriteLine writes one line of data.
func (a *App) WriteLine(s string) error { return a.WriteText([]byte(display.Line(s) + "\n")) }

// WriteText writes data that has lines.
func (a *App) WriteText(text []byte) error {
	if _, err := a.Stdout.Write(text); err != nil {
		return mvm.Errorf(mvm.KindInternal, "write output: %w", err)
	}
	return nil
}
