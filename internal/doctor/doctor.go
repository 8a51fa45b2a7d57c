// Package doctor checks a host for what mvm needs. It changes nothing and needs no
// agent, so that it can say why an agent does not start.
package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"mvm"
)

// Options say what to look at.
type Options struct {
	DataDir string // where images, memory and disks go
	// Root is the root of the file system to look at, for tests; empty: "/".
	Root string
	// Path is the list of folders to find programs in; empty: the process's PATH.
	Path string
	// Hostd is the socket of mvm hostd, which has the rights where the agent has none;
	// empty: there is none.
	Hostd string
	// Hello asks mvm hostd whether it answers; needed where there is one.
	Hello func(context.Context) error
	// Walls says which walls around VMMs are missing, asked of what starts them; nil: they are
	// not looked at.
	Walls func(context.Context) ([]mvm.Finding, error)
	// Flakes says whether images of Nix flakes can be built; nil: it is not looked at.
	Flakes func(context.Context) mvm.Finding
	// Driver is the configured one; empty: qemu.
	Driver string
	// UID is the user that would run the agent; nil: this process's.
	UID *int
}

// Severities of findings.
const (
	ok      = "ok"
	warning = "warning"
	failure = "error"
)

// host is one look at a host.
type host struct {
	opt Options
}

// Host checks the host and returns what it found, the good things too, in a fixed
// order. A check that can't be done is a warning that says so.
func Host(ctx context.Context, opt Options) []mvm.Finding {
	if opt.Root == "" {
		opt.Root = "/"
	}
	if opt.Path == "" {
		opt.Path = os.Getenv("PATH")
	}
	h := host{opt: opt}
	vmm, kvm := h.qemu, h.kvm
	if opt.Driver == "firecracker" {
		vmm, kvm = h.firecracker, h.needsKVM
	}
	checks := []func(context.Context) mvm.Finding{
		h.root, vmm, kvm, h.tun, h.bridge, h.nftables, h.forwarding,
		h.program("mkfs.ext4", "data disks", "e2fsprogs"),
		h.program("apt-get", "the built-in images, which use Debian packages", "apt"),
		h.disk, h.memory,
	}
	var out []mvm.Finding
	for _, check := range checks {
		if ctx.Err() != nil {
			return out
		}
		out = append(out, check(ctx))
	}
	if out[0].Severity == failure { // there are no rights to look with, or nobody who has them
		return out
	}
	out = append(out, h.walls(ctx)...)
	if h.opt.Flakes != nil && ctx.Err() == nil {
		out = append(out, h.opt.Flakes(ctx))
	}
	return out
}

func found(severity, what, where, fix string) mvm.Finding {
	return mvm.Finding{Severity: severity, What: what, Where: where, Fix: fix}
}

func (h host) path(p string) string { return filepath.Join(h.opt.Root, p) }

// read returns the first line of a small file.
func (h host) read(p string) (string, error) {
	b, err := os.ReadFile(h.path(p))
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line), err
}

// look finds a program in the path, and where administrators' programs are.
func (h host) look(name string) string {
	for _, dir := range append(filepath.SplitList(h.opt.Path), h.path("/usr/sbin"), h.path("/sbin")) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// output runs a program and returns the first line that it prints.
func output(ctx context.Context, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	b, err := cmd.CombinedOutput()
	line, _, _ := strings.Cut(string(b), "\n")
	if err != nil && line != "" {
		err = fmt.Errorf("%w: %s", err, line)
	}
	return line, err
}
