package nix

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"mvm"
	"mvm/internal/jail"
)

// install says how a host gets Nix.
const install = "install Nix as a package of the distribution, such as apt install nix-bin, and build again"

// tools are the programs of this host that a cage has: Nix, git where it is there, and what
// they need.
type tools struct {
	nix     string // path
	version string // as Nix says it
	shell   string // a static shell; "" where there is none
	files   []string
}

// versionTimeout bounds asking Nix for its version.
const versionTimeout = 20 * time.Second

// Version is the version of this host's Nix, or why it can't be used.
func Version(ctx context.Context) (string, error) {
	path, err := find()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{"HOME=/nonexistent", "USER=nobody"}, "/", time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "ask %s for its version: %w", path, err).WithFix("%s", install)
	}
	words := strings.Fields(string(out[:min(len(out), 256)]))
	if len(words) == 0 {
		return "", mvm.Errorf(mvm.KindUnavailable, "%s says no version", path).WithFix("%s", install)
	}
	return words[len(words)-1], nil
}

// searched are the folders in which Nix and git are looked for, whatever the agent's PATH is.
var searched = []string{"/usr/local/bin", "/usr/bin", "/bin"}

// find is the path of this host's Nix.
func find() (string, error) {
	path := program("nix")
	if path == "" {
		return "", mvm.Errorf(mvm.KindUnavailable, "there is no nix in %s on this host", strings.Join(searched, ", ")).WithFix("%s", install)
	}
	if strings.HasPrefix(path, "/nix/") {
		return "", mvm.Errorf(mvm.KindUnavailable, "this host's Nix is in its own store (%s), which mvm does not show to builds", path).WithFix("%s", install)
	}
	return path, nil
}

// program is the file of a program, "" where it is not there.
func program(name string) string {
	for _, dir := range searched {
		p, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if info, serr := os.Stat(p); err == nil && serr == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// findTools finds the tools that this host has now: a package may be upgraded while the agent runs.
func findTools(ctx context.Context) (tools, error) {
	path, err := find()
	if err != nil {
		return tools{}, err
	}
	t := tools{nix: path}
	if t.version, err = Version(ctx); err != nil {
		return tools{}, err
	}
	if t.files, err = closure(ctx, path); err != nil {
		return tools{}, err
	}
	if git := program("git"); git != "" {
		t.files = append(t.files, gitFiles(ctx, git)...)
	}
	t.files = append(t.files, certificates, buildHook)
	for _, f := range t.files { // which Nix loads by name, beside its C library
		if filepath.Base(f) == "libc.so.6" {
			t.files = append(t.files, filepath.Join(filepath.Dir(f), "libnss_dns.so.2"), filepath.Join(filepath.Dir(f), "libnss_files.so.2"))
			break
		}
	}
	if busybox := program("busybox"); busybox != "" {
		if all, err := jail.Closure(ctx, busybox); err == nil && len(all) == 1 { // static
			t.shell = busybox
			t.files = append(t.files, busybox)
		}
	}
	return t, nil
}

// buildHook is what Nix asks for other builders, of which there are none.
const buildHook = "/usr/libexec/nix/build-remote"

// certificates are those of public CAs.
const certificates = "/etc/ssl/certs/ca-certificates.crt"

func closure(ctx context.Context, program string) ([]string, error) {
	all, err := jail.Closure(ctx, program)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "find what Nix needs: %w", err).WithFix("%s", install)
	}
	return all, nil
}

// gitFolder has the programs of git that fetch.
const gitFolder = "/usr/lib/git-core"

// gitFiles are git's, for git+https: references. A git that is not whole is not shown.
func gitFiles(ctx context.Context, git string) []string {
	all := []string{gitFolder}
	for _, p := range []string{git, filepath.Join(gitFolder, "git-remote-http")} {
		files, err := jail.Closure(ctx, p)
		if err != nil {
			return nil
		}
		all = append(all, files...)
	}
	return all
}
