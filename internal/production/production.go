// Package production says whether a host is fit for production mode, in which the
// agent starts only where nothing that protects tenants from each other, or the host
// from a stranger's orders, is missing. It looks and changes nothing.
package production

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/manifest"
	"mvm/internal/pki"
	"mvm/internal/secrets"
	"mvm/internal/sys"
	"mvm/internal/trust"
)

// Severities of findings.
const (
	good    = "ok"
	warning = "warning"
	failure = "error"
)

// Host is what is looked at.
type Host struct {
	Config manifest.AgentConfig
	Key    secrets.Source // where the master key is from
	UID    int            // the agent's user
	Now    time.Time
	Root   string // of the file system with /dev and /proc, for tests; empty: "/"
}

// Check returns what there is to say of each condition of production mode, in a fixed
// order. Those of severity "error" keep an agent from starting.
func Check(h Host) []mvm.Finding {
	if h.Root == "" {
		h.Root = "/"
	}
	out := []mvm.Finding{h.trustedKeys(), h.key()}
	if h.Config.Reconcile.File != "" {
		out = append(out, h.desiredFile())
	}
	if h.Config.Remote.Listen != "" {
		out = append(out, h.certificates())
	}
	return append(out, h.jail()...)
}

// Ready is nil where the host is fit. Otherwise it is a KindPolicy that has every
// reason with its fix.
func Ready(h Host) error {
	var lines []string
	for _, f := range Check(h) {
		if f.Severity != failure {
			continue
		}
		line := "  " + f.What
		if f.Where != "" {
			line += " (" + f.Where + ")"
		}
		if f.Fix != "" {
			line += "; fix: " + f.Fix
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return nil
	}
	return mvm.Errorf(mvm.KindPolicy, "start in production mode: the host does not meet these conditions:\n%s", strings.Join(lines, "\n")).
		WithFix("see `mvm doctor`, or start without production mode")
}

func finding(severity, what, where, fix string) mvm.Finding {
	return mvm.Finding{Severity: severity, What: "production: " + what, Where: where, Fix: fix}
}

// failed is a finding of an error's text and fix.
func failed(err error, where string) mvm.Finding {
	text, fix := err.Error(), ""
	var e *mvm.Error
	if errors.As(err, &e) {
		text, fix = e.Text, e.Fix
	}
	return finding(failure, text, where, fix)
}

func (h Host) trustedKeys() mvm.Finding {
	dir := h.Config.Trust.TrustedKeys
	keys, err := trust.Load(dir)
	switch {
	case err != nil:
		return failed(err, "")
	case len(keys) == 0:
		return finding(failure, "no key is trusted, so no desired state could be accepted", dir,
			"create one with `mvm desired keygen`, and copy its .pub file there")
	}
	return finding(good, fmt.Sprintf("%d trusted key(s) for desired states", len(keys)), dir, "")
}

func (h Host) key() mvm.Finding {
	if err := h.Key.Check(); err != nil {
		return failed(err, "")
	}
	if h.Key.FromEnv() {
		return finding(warning, "the master key is in the environment, where root and the agent's user can read it", "",
			"pass it as a systemd credential (key_credential)")
	}
	return finding(good, "only the right user can read the master key", h.Key.Where(), "")
}

// desiredFile only looks whether the file is signed: who signed what is checked when it is
// taken up. One that is not there changes nothing and stops nothing.
func (h Host) desiredFile() mvm.Finding {
	path := h.Config.Reconcile.File
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return finding(warning, "the desired state's file does not exist", path, "put a signed state there")
	}
	if err != nil {
		return finding(failure, "read the desired state's file: "+err.Error(), path, "")
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, desired.MaxEnvelopeBytes+1))
	if err != nil || !desired.IsSigned(b) {
		return finding(failure, "the desired state's file is not signed", path, "sign it with `mvm desired sign`")
	}
	return finding(good, "the desired state's file is signed", path, "")
}

func (h Host) certificates() mvm.Finding {
	c := h.Config.Remote
	s, err := pki.At(c.CertDir, c.TrustDomain).Status(h.Now)
	if err != nil {
		return failed(err, c.CertDir)
	}
	if s.Problem != "" {
		return finding(failure, s.Problem, c.CertDir, s.Fix)
	}
	return finding(good, "the certificates for the remote API are valid", c.CertDir, "")
}

// jail is what stands between a guest that has broken out into its VMM and everything
// else: hardware virtualisation, an agent without rights, a user of its own for each VMM, and the filter of
// system calls that QEMU sets itself, and the bounds of its cgroup.
func (h Host) jail() (out []mvm.Finding) {
	weak := func(what, where, fix string) {
		if h.Config.Trust.WeakIsolation {
			out = append(out, finding(warning, what+", allowed by weak_isolation", where, fix))
			return
		}
		out = append(out, finding(failure, what, where, fix))
	}
	if h.Config.Driver == "fake" {
		weak("driver fake runs no real VMs and isolates nothing", "", "set driver to qemu")
		return out
	}
	if h.Config.Driver == "firecracker" {
		weak("driver firecracker was never run with KVM by its authors", "", "set driver to qemu")
	}
	if f, err := os.OpenFile(filepath.Join(h.Root, "dev/kvm"), os.O_RDWR|syscall.O_CLOEXEC, 0); err == nil {
		_ = f.Close()
	} else if h.Config.Hostd.Socket == "" || errors.Is(err, fs.ErrNotExist) { // with hostd the agent needs no right to it
		weak("no KVM: guests would run in software (TCG), and QEMU does not promise isolation for it", "/dev/kvm", "turn on virtualisation; see `mvm doctor`")
	}
	if h.UID == 0 { // also with hostd: it has the API, the state and all talk with guests
		weak("the agent would run as root, so whoever compromises it controls the host", "",
			"run mvm hostd as root and the agent as user mvm, with hostd_socket: see docs/production.md")
	} else if h.Config.Hostd.Socket == "" {
		out = append(out, finding(failure, fmt.Sprintf("user %d can't give each VMM its own user", h.UID), "", "run the agent with mvm hostd (hostd_socket)"))
	}
	if _, err := os.Stat(filepath.Join(h.Root, "proc/sys/kernel/seccomp/actions_avail")); err != nil {
		out = append(out, finding(failure, "the kernel has no seccomp, so VMMs could make any system call", "", "boot a kernel with CONFIG_SECCOMP_FILTER"))
	}
	if without := h.Config.Trust.JailWithout; len(without) > 0 {
		weak("VMMs go without these walls: "+strings.Join(without, ", "), "jail_without", "remove jail_without from the config")
	}
	if h.Config.Hostd.Socket == "" { // or else hostd looks at its own
		if err := sys.CgroupsBound(h.Root); err != nil {
			weak("the memory and processes of VMMs would not be limited: "+err.Error(), "", boundsFix)
		}
	}
	if len(out) == 0 {
		out = append(out, finding(good, "VMMs are isolated: KVM, a separate user for each, seccomp, cgroup", "", ""))
	}
	return out
}

// Walled is nil where all walls around VMMs stand, or the config does not ask for it. What
// starts VMMs asks, with what it found missing.
func Walled(c manifest.AgentConfig, missing []mvm.Finding) error {
	if !c.Trust.Production || c.Trust.WeakIsolation || len(missing) == 0 {
		return nil
	}
	var lines []string
	for _, m := range missing {
		lines = append(lines, fmt.Sprintf("  %s; fix: %s", m.What, m.Fix))
	}
	return mvm.Errorf(mvm.KindPolicy, "start VMMs in production mode: walls around them are missing:\n%s", strings.Join(lines, "\n")).
		WithFix("see \"The jail of a VMM\" in docs/jail.md, or set weak_isolation")
}

const boundsFix = "mount the memory and pids controllers; with cgroup v2 also start hostd in a delegated subgroup; see \"Bounds of VMMs\" in docs/production.md"

// Bounded is nil where VMMs that this process starts can be bounded, or the config does
// not ask for it. hostd asks: the agent can't see what hostd may do. root is as in Host.
func Bounded(c manifest.AgentConfig, root string) error {
	if !c.Trust.Production || c.Trust.WeakIsolation {
		return nil
	}
	if err := sys.CgroupsBound(root); err != nil {
		return mvm.Errorf(mvm.KindPolicy, "start VMMs in production mode: their memory and processes would not be limited: %w", err).WithFix(boundsFix)
	}
	return nil
}
