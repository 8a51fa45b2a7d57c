package images

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
	"mvm/internal/image/program"
	"mvm/internal/manifest"
)

const buildHelp = `Make an image of your own program: the program, the files that it needs, and how it runs. The
command writes a folder, which pools use as their image, and needs neither root nor an agent.

Describe the image with flags, or in a file named Mvmfile; flags override the file. Without
flags, the command reads ./Mvmfile. Run it again for a new version, then roll it out with
` + "`mvm pool build TENANT/POOL`" + `. The folder is replaced in one step, and on an error it stays as it was.
If nothing has changed, the folder stays the same.

The program must be for Linux on x86-64. A static program needs nothing else. For a program
that is linked dynamically, its loader and libraries are taken from this machine. If one is
missing, the command says which.
`

type buildFlags struct {
	file, target, cmd string
	env, files        []string
	p                 manifest.Program
	out               *command.Format
}

func (a *app) buildCmd() *cobra.Command {
	var o buildFlags
	cmd := &cobra.Command{Use: "build -t dir:FOLDER [flags]", Short: "Make an image of your own program", Long: buildHelp, Args: cobra.NoArgs,
		Example: "  mvm image build --binary ./app --port 8080 -t dir:./app-image\n  mvm image build -f Mvmfile -t dir:./app-image"}
	f := cmd.Flags()
	f.StringVarP(&o.target, "tag", "t", "", "image to write: `dir:FOLDER`")
	f.StringVarP(&o.file, "mvmfile", "f", "", "`FILE` that describes the image (default: ./Mvmfile if no other flag does)")
	f.StringVar(&o.p.Binary, "binary", "", "`FILE` with the program; in the guest it is in /usr/bin")
	f.StringVar(&o.cmd, "cmd", "", "`COMMAND` to run, without a shell (default: the program)")
	f.IntVar(&o.p.Port, "port", 0, "TCP `PORT` on which the program listens; it is ready when it accepts connections there")
	f.StringVar(&o.p.Ready, "ready", "", "`PATH` of an HTTP request at the port that succeeds when the program is ready")
	f.StringArrayVar(&o.files, "file", nil, "file or folder to add, as `SRC:DST[:MODE]` (repeat)")
	f.StringArrayVar(&o.env, "env", nil, "environment variable, as `NAME=VALUE` (repeat); the pool's env overrides it")
	f.StringVar(&o.p.User, "user", "", "`USER` or number that runs the program (default: root)")
	f.StringVar(&o.p.Dir, "workdir", "", "working `FOLDER` in the guest (default: /)")
	f.StringVar(&o.p.Stop, "stop-signal", "", "`SIGNAL` that asks the program to end (default: SIGTERM)")
	f.StringVar(&o.p.From, "from", "", "image `REF` to add the program to (default: "+program.DefaultFrom+")")
	f.StringVar(&o.p.Name, "name", "", "`NAME` of the image, for people (default: that of the folder)")
	o.out = command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runBuild(cmd, o) }
	return cmd
}

func (a *app) runBuild(cmd *cobra.Command, o buildFlags) error {
	folder, ok := strings.CutPrefix(o.target, "dir:")
	if !ok || folder == "" {
		return command.Usagef(cmd, "image build: -t %q is not dir:FOLDER, such as -t dir:./app-image", o.target)
	}
	if a.IsRemote() {
		return command.Usagef(cmd, "image build: the image is made on this machine: leave out --remote, and copy the folder")
	}
	p, err := describe(cmd, o)
	if err != nil {
		return err
	}
	r, err := program.Build(cmd.Context(), p, folder)
	if err != nil {
		return err
	}
	for _, n := range r.Notes {
		a.Say("%s", n)
	}
	state := "written"
	if !r.Changed {
		state = "unchanged"
	}
	a.Say("image %s: %s, %s, runs %s", state, command.Plural(r.Files, "file", "files"), command.Size(r.Bytes), strings.Join(r.Command, " "))
	return a.PrintChanged(*o.out, r, r.Ref)
}

// describe is the description in the file, with what the flags say over it.
func describe(cmd *cobra.Command, o buildFlags) (p manifest.Program, err error) {
	switch described := o.p.Binary != "" || o.cmd != ""; {
	case o.file != "":
		p, err = manifest.ReadProgram(o.file)
	case !described && there("Mvmfile"):
		p, err = manifest.ReadProgram("Mvmfile")
	case !described:
		err = command.Usagef(cmd, "image build: nothing to build: give --binary or --cmd, or write an Mvmfile")
	}
	if err != nil {
		return p, err
	}
	changed := cmd.Flags().Changed
	if changed("port") && (o.p.Port < 1 || o.p.Port > 65535) {
		return p, command.Usagef(cmd, "image build: --port %d is not in 1..65535", o.p.Port)
	}
	if o.p.Ready != "" {
		if err := manifest.ValidReady(o.p.Ready); err != nil {
			return p, command.Usagef(cmd, "image build: --ready %v", err)
		}
	}
	if changed("cmd") {
		if p.Command, err = manifest.SplitCommand(o.cmd); err != nil {
			return p, command.Usagef(cmd, "image build: --cmd %v", err)
		}
	}
	p.Port = cmp.Or(o.p.Port, p.Port)
	for _, v := range []struct {
		to   *string
		from string
	}{{&p.Binary, o.p.Binary}, {&p.Ready, o.p.Ready}, {&p.User, o.p.User}, {&p.Dir, o.p.Dir}, {&p.Stop, o.p.Stop}, {&p.From, o.p.From}, {&p.Name, o.p.Name}} {
		*v.to = cmp.Or(v.from, *v.to)
	}
	return p, addTo(cmd, &p, o)
}

// addTo adds what flags say that may be repeated.
func addTo(cmd *cobra.Command, p *manifest.Program, o buildFlags) error {
	for _, e := range o.env {
		name, value, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return command.Usagef(cmd, "image build: --env %q is not NAME=VALUE", e)
		}
		if p.Env == nil {
			p.Env = map[string]string{}
		}
		p.Env[name] = value
	}
	for _, s := range o.files {
		f, err := parseFile(s)
		if err != nil {
			return command.Usagef(cmd, "image build: --file %v", err)
		}
		p.Files = append(p.Files, f)
	}
	return nil
}

// parseFile reads SRC:DST or SRC:DST:MODE.
func parseFile(s string) (f manifest.ProgramFile, err error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !strings.HasPrefix(parts[1], "/") {
		return f, fmt.Errorf("%q is not SRC:DST or SRC:DST:MODE, with an absolute path in the guest for DST", s)
	}
	f.Source, f.Path = parts[0], parts[1]
	if len(parts) == 3 {
		f.Mode, err = manifest.ParseMode(parts[2])
	}
	return f, err
}

func there(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
