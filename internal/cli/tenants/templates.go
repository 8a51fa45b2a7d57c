package tenants

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
	"mvm/internal/manifest"
)

const templatesLong = `List the templates of mvm new: the files in /etc/mvm/templates, and the built-in ones. A file
replaces the built-in template of its name. The folder is beside the agent's config file
(MVM_CONFIG). With --remote too, the templates are those of this machine.
`

func (a *app) templatesCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "templates [-o FORMAT]", Aliases: []string{"template"}, Short: "List the templates of mvm new", Long: templatesLong, Args: cobra.NoArgs}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		all, err := manifest.ListTemplates(a.TemplateDir())
		if err != nil {
			return err
		}
		list := make([]templateInfo, len(all))
		for n, t := range all {
			list[n] = infoOf(t)
		}
		return a.Print(*out, list, func() command.Table { return templateTable(list) })
	}
	cmd.AddCommand(a.templatesShowCmd())
	return cmd
}

// templateInfo is what is told of a template.
type templateInfo struct {
	Name  string `json:"name"`
	About string `json:"about,omitempty"`
	// From is "built-in", or the path of the file.
	From     string           `json:"from"`
	Replaces bool             `json:"replaces_builtin,omitempty"`
	Problem  string           `json:"problem,omitempty"`
	Params   []manifest.Param `json:"params"`
}

func infoOf(t manifest.ListedTemplate) templateInfo {
	i := templateInfo{Name: t.Name, About: t.About, From: t.Path, Replaces: t.Replaces, Params: t.Params}
	if i.From == "" {
		i.From = "built-in"
	}
	if i.Params == nil {
		i.Params = []manifest.Param{}
	}
	if t.Err != nil {
		i.Problem = t.Err.Error()
	}
	return i
}

func templateTable(list []templateInfo) command.Table {
	t := command.Table{Head: []string{"NAME", "FROM", "ABOUT"}}
	for _, i := range list {
		from, about := i.From, i.About
		if i.Replaces {
			from += " (replaces the built-in one)"
		}
		if i.Problem != "" {
			first, _, _ := strings.Cut(i.Problem, "\n")
			about = "cannot be used: " + first
		}
		t.Add(i.Name, from, about)
	}
	return t
}

func (a *app) templatesShowCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "show TEMPLATE [flags]", Short: "Show the parameters of a template",
		Long:    "Show the parameters of a template. TEMPLATE is a name or the path of a file. To write a\ntemplate of your own, begin with the text of another one (--source).\n",
		Example: "  mvm templates show web\n  mvm templates show web --source > mine.toml",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeTemplates}
	out := command.OutputFlag(cmd)
	source := cmd.Flags().Bool("source", false, "print the template's file instead")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *source && cmd.Flags().Changed("output") {
			return command.Usagef(cmd, "--source and --output do not go together")
		}
		t, err := manifest.FindTemplate(args[0], a.TemplateDir())
		if err != nil {
			return err
		}
		if *source {
			return a.WriteText(t.Source())
		}
		i := infoOf(manifest.ListedTemplate{Template: t})
		return a.Print(*out, i, func() command.Table { return i.table() })
	}
	return cmd
}

// table tells a person of the template and its parameters.
func (i templateInfo) table() command.Table {
	var t command.Table
	t.Add("name", i.Name)
	t.Add("about", i.About)
	t.Add("from", i.From)
	for _, p := range i.Params {
		t.Add("--set "+p.Name+"="+strings.ToUpper(string(p.Type)), p.Help+" ("+defaultOf(p)+")")
	}
	return t
}

// defaultOf says what a parameter is when nobody sets it.
func defaultOf(p manifest.Param) string {
	switch v := p.Default.(type) {
	case nil:
		if p.Required {
			return "required"
		}
		return "no default"
	case string:
		if p.WithoutNix != "" {
			return "default " + v + ", without Nix " + p.WithoutNix
		}
		return "default " + v
	case []any:
		words := make([]string, len(v))
		for n, e := range v {
			words[n] = fmt.Sprint(e)
		}
		return "default " + strings.Join(words, ",")
	default:
		return fmt.Sprintf("default %v", v)
	}
}

func (a *app) completeTemplates(_ *cobra.Command, args []string, toComplete string) (names []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := manifest.ListTemplates(a.TemplateDir())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	for _, t := range all {
		names = append(names, t.Name)
	}
	if strings.ContainsRune(toComplete, os.PathSeparator) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
