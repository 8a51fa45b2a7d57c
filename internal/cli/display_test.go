package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli"
	"mvm/internal/display"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
)

const at = "acme/w/i-a3f7b2c1"

// argsOf are the arguments of every command, a line for each way to call it. FILE is a
// file of the test. A command without its line here fails the test: add one that shows
// all that the command prints.
var argsOf = map[string][]string{
	"agent audit verify":         {"", "--file FILE"},
	"agent certs client":         {"EVIL --tenant acme --out DIR/c --config FILE", "x --tenant EVIL --out DIR"},
	"agent certs init":           {"--config FILE", "EVIL"},
	"agent certs list":           {"--config FILE", "EVIL"},
	"agent certs request":        {"--tenant EVIL --out DIR/r"},
	"agent certs revoke":         {"EVIL --config FILE"},
	"agent certs rotate":         {"--config FILE"},
	"agent certs sign":           {"FILE", "EVIL"},
	"agent certs status":         {"--config FILE", "EVIL"},
	"agent desired":              {""},
	"agent reconcile":            {"", "--dry-run", "--desired FILE", "--desired EVIL", "--forget"},
	"agent schema":               {""},
	"agent status":               {""},
	"agent stop":                 {"--timeout EVIL"},
	"agent serve":                {"", "--driver EVIL", "--config FILE"},
	"builds":                     {"", "acme", "acme/w", "EVIL"},
	"builds cancel":              {"b-00000001", "EVIL"},
	"builds info":                {"b-00000001", "EVIL"},
	"builds logs":                {"b-00000001", "b-00000001 -f", "b-00000001 -t -n 3", "EVIL"},
	"completion":                 {"bash", "EVIL"},
	"connect":                    {"acme"},
	"cp":                         {"FILE " + at + ":/x", at + ":/x DIR/y", at + ":/x EVIL", "EVIL " + at + ":/x"},
	"deploy":                     {"GOOD", "GOOD --dry-run", "GOOD --no-wait", "FILE", "EVIL"},
	"desired keygen":             {"DIR/EVIL"},
	"desired sign":               {"FILE --key EVIL", "FILE --key FILE"},
	"desired verify":             {"FILE", "EVIL"},
	"doctor":                     {"", "--config FILE", "--tenant acme", "--tenant EVIL"},
	"events":                     {"", "acme -n 3", "--action EVIL", "--since EVIL"},
	"exec":                       {at + " -- ls", at + " -- EVIL", "--wake " + at + " -- ls"},
	"help":                       {"", "EVIL", "ps"},
	"hostd serve":                {"", "--config FILE"},
	"image build":                {"-t dir:FILE --binary FILE", "-t EVIL --binary FILE", "-t dir:EVIL --binary EVIL", "-t dir:x --binary FILE --file EVIL:/EVIL", "-t dir:x --cmd EVIL", "-t dir:x -f FILE"},
	"inbox drop":                 {"acme w/3 --yes", "acme w/3", "EVIL EVIL --yes", "acme w/EVIL --yes"},
	"inbox list":                 {"acme", "EVIL"},
	"inbox retry":                {"acme w/3", "acme 3", "acme EVIL"},
	"inbox show":                 {"acme w/3", "acme 3", "acme EVIL"},
	"instance create":            {"acme/w", "acme/EVIL"},
	"instance destroy":           {at + " --yes", at},
	"instance exec":              {at + " -- ls"},
	"instance info":              {at, "EVIL"},
	"instance list":              {"", "-a", "--state EVIL", "EVIL"},
	"instance logs":              {at, at + " -t", at + " --service x", at + " --console"},
	"instance restart":           {at},
	"instance resume":            {at},
	"instance sleep":             {at},
	"instance snapshots list":    {"", at, "EVIL"},
	"instance snapshots restore": {at + " s-00000001", at + " EVIL"},
	"instance snapshots rm":      {at + " s-00000001 --yes", at + " s-00000001", at + " EVIL --yes"},
	"instance start":             {at},
	"instance stats":             {at},
	"instance stop":              {at},
	"instance wake":              {at},
	"instance warm":              {at},
	"logs":                       {at, at + " -t", at + " --service x", at + " --console"},
	"net verify":                 {""},
	"new":                        {"minimal acme", "minimal acme --dry-run", "minimal acme --config FILE", "EVIL acme", "minimal EVIL", "minimal acme --print", "web acme --image EVIL", "minimal acme --set EVIL", "minimal acme --set port=EVIL", "FILE acme"},
	"node disk":                  {""},
	"node fsck":                  {""},
	"node gc":                    {""},
	"node info":                  {""},
	"node stats":                 {""},
	"pool build":                 {"acme/w", "acme/w --follow", "acme/w --detach"},
	"pool create":                {"acme/w --flake builtin:minimal", "acme/w --flake EVIL"},
	"pool destroy":               {"acme/w --yes", "acme/w"},
	"pool gc":                    {"acme/w"},
	"pool info":                  {"acme/w"},
	"pool list":                  {""},
	"pool restart":               {"acme/w"},
	"pool rollback":              {"acme/w", "acme/w EVIL"},
	"pool scale":                 {"acme/w --running 1", "acme/w --running 1 --wait", "acme/w --running EVIL"},
	"pool update":                {"acme/w --vcpus 1", "acme/w --vcpus 1 --wait", "acme/w --env EVIL"},
	"ps":                         {"", "EVIL"},
	"templates":                  {""},
	"templates show":             {"web", "web --source", "EVIL", "./EVIL"},
	"tenant create":              {"acme", "EVIL"},
	"tenant destroy":             {"acme --yes", "acme"},
	"tenant info":                {"acme"},
	"tenant list":                {""},
	"tenant secrets list":        {"acme"},
	"tenant rotate-key":          {"acme"},
	"tenant secrets rotate":      {"acme"},
	"tenant secrets set":         {"acme k=FILE", "acme EVIL", "acme k=EVIL"},
	"tenant update":              {"acme --pinned", "acme --max-running EVIL"},
	"top":                        {"-d 0.1 -n 1", "EVIL"},
	"version":                    {""},
	"why":                        {at},
}

// leaves are the commands that do something, by their path without "mvm".
func leaves(cmd *cobra.Command, path string) map[string]*cobra.Command {
	all := map[string]*cobra.Command{}
	for _, c := range cmd.Commands() {
		p := strings.TrimSpace(path + " " + c.Name())
		for k, v := range leaves(c, p) {
			all[k] = v
		}
		if !c.HasSubCommands() || !strings.HasSuffix(c.Use, " COMMAND") {
			all[p] = c
		}
	}
	return all
}

// TestEveryCommandShowsTextOfOthersSafely runs all commands of the tree, in each output
// format, to files and to a terminal, against an agent whose every string is wicked.
// Nothing that a terminal acts on and nothing invisible may come out, and JSON and YAML
// must have the text as it was.
func TestEveryCommandShowsTextOfOthersSafely(t *testing.T) {
	w := newStage(t)
	found := leaves(cli.New(w.env(io.Discard, io.Discard)), "")
	for path := range argsOf {
		if found[path] == nil {
			t.Errorf("argsOf has %q, which is no command", path)
		}
	}
	for path, cmd := range found {
		lines, ok := argsOf[path]
		if !ok {
			t.Errorf("mvm %s has no line in argsOf: add one that shows all that it prints", path)
		}
		outputs := []string{""}
		if cmd.Flags().Lookup("output") != nil {
			outputs = []string{"-o table", "-o json", "-o yaml"}
			if strings.Contains(cmd.Flags().Lookup("output").Value.Type(), "wide") {
				outputs = append(outputs, "-o wide")
			}
		}
		for _, line := range lines {
			for _, output := range outputs {
				for n := range w.services {
					w.show(t, n, path, output, line)
				}
			}
		}
	}
	if w.seen < 200 {
		t.Errorf("%d runs showed text of others: the test does not test much", w.seen)
	}
}

// TestCompletionsAreClean: candidates come from the agent, and a shell puts them on the
// terminal.
func TestCompletionsAreClean(t *testing.T) {
	w := newStage(t)
	for path := range leaves(cli.New(w.env(io.Discard, io.Discard)), "") {
		for _, more := range [][]string{{""}, {at, ""}} {
			w.run(t, 0, append(append([]string{"__complete"}, strings.Fields(path)...), more...), false)
		}
	}
	args := []string{"__complete", "why", ""}
	stdout, _ := w.run(t, 0, args, false)
	if strings.Contains(stdout, "EVIL") || strings.Contains(stdout, "FORGED") {
		t.Errorf("candidates that can't be shown: %q", stdout)
	}
}

// stage is agents that are wicked in several ways, and files to name.
type stage struct {
	dir      string
	services []wickedService
	sockets  []string
	seen     int // runs that showed text of others
}

func newStage(t *testing.T) *stage {
	t.Helper()
	w := &stage{dir: t.TempDir(), services: []wickedService{{}, {yes: true}, {fail: true}}}
	for name, text := range map[string]string{"file": wicked, "good.toml": "[tenant]\nid = \"acme\"\n[[pools]]\nid = \"w\"\nflake = \"builtin:minimal\"\n"} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, svc := range w.services {
		dir, err := os.MkdirTemp("", "mvm") // short: a unix socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		socket := filepath.Join(dir, "s")
		ln, err := api.Listen(socket, -1)
		if err != nil {
			t.Fatal(err)
		}
		srv := api.NewServer(svc, api.ServerConfig{Group: -1, Log: slog.New(slog.DiscardHandler)})
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := errors.Join(srv.Close(ctx), <-served, ln.Close()); err != nil {
				t.Error(err)
			}
		})
		w.sockets = append(w.sockets, socket)
	}
	return w
}

func (w *stage) env(stdout, stderr io.Writer) cli.Env {
	evil := mvm.Errorf(mvm.KindInternal, "%s", wicked).WithFix("%s", wicked)
	return cli.Env{Stdin: strings.NewReader(wicked), Stdout: stdout, Stderr: stderr, Now: func() time.Time { return now },
		Getenv: func(name string) string {
			return map[string]string{"MVM_NO_AUTOSTART": "1", "HOME": w.dir, "TERM": "xterm", "MVM_DATA_DIR": w.dir}[name]
		},
		Version:    api.Version{Version: wicked},
		ServeAgent: func(context.Context, cli.ServeOptions) error { return evil },
		ServeHostd: func(context.Context, manifest.AgentConfig) error { return evil },
		CheckProduction: func(manifest.AgentConfig) []mvm.Finding {
			f, _ := some[[]mvm.Finding](wickedService{})
			return f
		},
		VerifyAudit: func(string, string, string) (mvm.AuditReport, error) { return some[mvm.AuditReport](wickedService{}) },
	}
}

// show runs a command to files and to a terminal.
func (w *stage) show(t *testing.T, n int, path, output, line string) {
	t.Helper()
	args := strings.Fields(path)
	if output != "" {
		args = append(args, strings.Fields(output)...)
	}
	args = append(args, "--socket", w.sockets[n])
	if path == "completion" || path == "help" {
		args = args[:len(args)-2]
	}
	dir := "" // for files that the command makes
	if strings.Contains(line, "DIR") {
		dir = t.TempDir()
	}
	for _, word := range strings.Fields(line) {
		args = append(args, strings.NewReplacer("EVIL", wicked, "FILE", filepath.Join(w.dir, "file"), "GOOD", filepath.Join(w.dir, "good.toml"),
			"DIR", dir).Replace(word))
	}
	stdout, stderr := w.run(t, n, args, false)
	if strings.Contains(stdout+stderr, "EVIL") {
		w.seen++
	}
	if n != 1 && output != "-o json" && output != "-o yaml" { // which are the same on a terminal
		w.run(t, n, args, true)
	}
	if strings.Contains(stderr, "encode output") {
		t.Errorf("mvm %q can't print it: %s", args, stderr)
	}
	if !w.services[n].fail {
		wantText(t, args, output, stdout)
	}
}

// run runs a command and looks at all that it writes.
func (w *stage) run(t *testing.T, n int, args []string, terminal bool) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := w.env(&out, &errs)
	if terminal {
		outTTY, written := testenv.Terminal(t)
		errTTY, errWritten := testenv.Terminal(t)
		env.Stdout, env.Stderr = outTTY, errTTY
		defer func() {
			stdout, stderr = written(), errWritten()
			wantSafe(t, args, "terminal at stdout", withoutOurs(stdout))
			wantSafe(t, args, "terminal at stderr", withoutOurs(stderr))
		}()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if args[0] == "__complete" {
		get := env.Getenv
		env.Getenv = func(name string) string {
			if name == "MVM_SOCKET" {
				return w.sockets[n]
			}
			return get(name)
		}
	}
	cli.Run(ctx, env, args)
	if !terminal {
		stdout, stderr = out.String(), errs.String()
		program := (slices.Contains(args, "logs") || slices.Contains(args, "exec")) && args[0] != "builds"
		if !program || slices.Contains(args, "-o") && !slices.Contains(args, "table") { // else its bytes, see TestProgramOutput
			wantSafe(t, args, "stdout", stdout)
			wantSafe(t, args, "stderr", stderr)
		}
	}
	return stdout, stderr
}

// ours are the sequences that mvm writes itself: a progress line that changes, a table that
// does, and the
// colours of heads and states. Colours of a program's lines pass too.
var ours = regexp.MustCompile("\r\x1b\\[K|\x1b\\[H\x1b\\[J|\x1b\\[(0|2|31|32|33|34|35)m")

func withoutOurs(s string) string { return ours.ReplaceAllString(s, "") }

// forged is a line that is not mvm's.
var forged = regexp.MustCompile(`(?m)^(mvm:|  fix:) FORGED`)

func wantSafe(t *testing.T, args []string, where, s string) {
	t.Helper()
	if slices.Contains(args, "exec") && strings.HasPrefix(where, "terminal") { // a program has lines of its own
		s = forged.ReplaceAllString(strings.ReplaceAll(s, "\r\n", "\n"), "")
	}
	for i, r := range s {
		if display.Hidden(r) && r != '\n' && r != '\t' || r == 0xfffd && !strings.HasPrefix(s[i:], "\xef\xbf\xbd") {
			t.Errorf("mvm %q writes %U to %s: …%q", args, r, where, s[max(0, i-60):min(len(s), i+20)])
			return
		}
	}
	if m := forged.FindString(s); m != "" {
		at := strings.Index(s, m)
		t.Errorf("mvm %q writes a forged line to %s: …%q", args, where, s[max(0, at-60):min(len(s), at+20)])
	}
}

// wantText decodes what a program reads and wants the text to be there as it was, but for
// bytes that are no UTF-8.
func wantText(t *testing.T, args []string, output, stdout string) {
	t.Helper()
	if strings.TrimSpace(stdout) == "" || !strings.Contains(stdout, "EVIL") {
		return
	}
	var v any
	var err error
	switch output {
	case "-o json":
		err = json.NewDecoder(strings.NewReader(stdout)).Decode(&v)
	case "-o yaml":
		err = yaml.Unmarshal([]byte(stdout), &v)
	default:
		return
	}
	if err != nil {
		t.Errorf("mvm %q: %v in\n%s", args, err, stdout)
		return
	}
	if want := strings.ToValidUTF8(wicked, "\ufffd"); !holds(v, strings.ReplaceAll(want, "\ufffd\ufffd", "\ufffd")) && !holds(v, strings.ReplaceAll(want, "\ufffd", "\ufffd\ufffd")) {
		t.Errorf("mvm %q: the text is not the same in\n%s", args, stdout)
	}
}

// holds reports whether the text is in v somewhere.
func holds(v any, want string) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, want)
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return holds(e, want) })
	case map[string]any:
		for k, e := range v {
			if strings.Contains(k, want) || holds(e, want) {
				return true
			}
		}
	}
	return false
}

// TestProgramOutput: output of programs goes as it is to other programs, and on a terminal
// keeps colours alone.
func TestProgramOutput(t *testing.T) {
	w := newStage(t)
	plain := strings.ToValidUTF8(wicked, "\ufffd") // by the API, where it is JSON
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"logs", "--service", "x", at}, plain},
		{[]string{"exec", at, "--", "ls"}, wicked},
	} {
		args := append([]string{c.args[0], "--socket", w.sockets[0]}, c.args[1:]...)
		stdout, _ := w.run(t, 0, args, false)
		if got := strings.ReplaceAll(stdout, "\ufffd", ""); !strings.HasPrefix(got, strings.ReplaceAll(c.want, "\ufffd", "")) {
			t.Errorf("mvm %q to a pipe:\n%q, want\n%q", c.args, stdout, c.want)
		}
		stdout, _ = w.run(t, 0, args, true)
		for _, want := range []string{"EVIL\\x1b]0;owned\\x07\x1b[35m\\x1b[2J\\u009b31m", "\\u202e", "\x1b[0m"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("mvm %q on a terminal: %q has no %q", c.args, stdout, want)
			}
		}
	}
}

// shellService has names and routes that a shell would run.
type shellService struct{ wickedService }

const command = `/$(touch pwned)` + "`touch pwned`;touch pwned'\"\\!x"

func (shellService) Tenants(context.Context) ([]mvm.Tenant, error) {
	return []mvm.Tenant{{ID: "acme"}, {ID: command}}, nil
}
func (shellService) Tenant(context.Context, string) (mvm.Tenant, mvm.Usage, error) {
	return mvm.Tenant{ID: "acme"}, mvm.Usage{}, nil
}
func (shellService) Pools(context.Context, string) ([]mvm.Pool, error) {
	bound := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8080")}
	route := func(from string) mvm.Route {
		return mvm.Route{Name: "r", Match: mvm.MatchRule{PathPrefix: command}, To: mvm.Target{PoolID: "w", TargetPort: 80,
			Selector: mvm.Selector{Kind: mvm.SelectByKey, From: from}}}
	}
	return []mvm.Pool{{Tenant: "acme", Bound: bound, Spec: mvm.PoolSpec{ID: "g", Publish: []mvm.Publish{{Guest: 80, Host: bound[0]}},
		Routes: &mvm.RoutingTable{Routes: []mvm.Route{route("header:x" + command), route("query:" + command), route("path")}}}}}, nil
}

// TestNothingIsForAShell: examples are pasted into shells, and shells expand candidates.
func TestNothingIsForAShell(t *testing.T) {
	if stdout, _, _ := run(t, shellService{}, "__complete", "tenant", "info", ""); !strings.Contains(stdout, "acme\n") || strings.Contains(stdout, "touch") {
		t.Errorf("candidates: %q", stdout)
	}
	stdout, stderr, code := run(t, shellService{}, "connect", "acme")
	var examples []string
	for line := range strings.Lines(stdout) {
		if rest, ok := strings.CutPrefix(line, "    curl "); ok {
			examples = append(examples, rest)
		}
	}
	if code != 0 || len(examples) != 3 {
		t.Fatalf("exit code %d, %d examples: %s%s", code, len(examples), stdout, stderr)
	}
	for _, e := range examples {
		cmd := exec.Command("bash", "-c", "printf '%s\\n' "+e)
		cmd.Dir = t.TempDir()
		out, err := cmd.CombinedOutput()
		if made, _ := os.ReadDir(cmd.Dir); err != nil || len(made) > 0 || !strings.Contains(string(out), command) {
			t.Errorf("a shell makes of curl %s\n%s (%v), and made %v", e, out, err, made)
		}
	}
}
