package command

import (
	"encoding/json"
	"fmt"
	"strings"

	"mvm"
	"mvm/internal/display"
)

// PrintLog prints a line of a log, with text of ours before it.
func (a *App) PrintLog(f Format, before string, l mvm.LogLine) error {
	if f != AsTable {
		return a.PrintItem(f, l)
	}
	text := l.Text // as the program wrote it, for another program
	switch {
	case a.Color:
		text = display.Coloured(text)
	case IsTerminal(a.Stdout):
		text = strings.ReplaceAll(display.Text(text), "\n", `\n`)
	}
	if err := a.Out.Raw([]byte(before + text + "\n")); err != nil {
		return mvm.Errorf(mvm.KindInternal, "write output: %w", err)
	}
	return nil
}

// PrintItem prints one item of a stream: a line of JSON, or a YAML document.
func (a *App) PrintItem(f Format, v any) error {
	if f == AsJSON {
		b, err := json.Marshal(v)
		if err != nil {
			return mvm.Errorf(mvm.KindInternal, "encode output: %w", err)
		}
		return a.WriteLine(string(display.JSON(b)))
	}
	b, err := Encode(f, v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "---\n%s", b)
	return err
}
