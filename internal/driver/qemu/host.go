package qemu

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

const (
	accelKVM = spawn.AccelKVM
	accelTCG = spawn.AccelTCG

	verdictFile   = "qemu-host.json"
	probeDeadline = 15 * time.Second // for one boot of a guest that does nothing
	probeBoots    = 2
	probePrefix   = vmproc.ProbeID
)

// verdict is what was found out about this host, kept for this boot of it and this
// binary.
type verdict struct {
	Version     int    `json:"version"` // of this format: 1
	BootID      string `json:"boot_id"`
	Digest      string `json:"digest"`
	KVM         string `json:"kvm"` // the device, as kvmDevice describes it
	Accelerator string `json:"accelerator"`
	NoArchCaps  bool   `json:"no_arch_caps,omitempty"`
	Why         string `json:"why"`
	TSCkHz      int    `json:"tsc_khz"`
}

// verdict returns what is kept, or finds it out; final says that it will not
// change on this host boot.
func (d *Driver) verdict(ctx context.Context, digest string) (v verdict, final bool, err error) {
	boot, err := sys.HostBootID()
	if err != nil {
		return v, false, mvm.Errorf(mvm.KindInternal, "read the host's boot id: %w", err)
	}
	if v, ok := d.kept(boot, digest); ok {
		return v, true, nil
	}
	f, err := d.lockState(ctx)
	if err != nil {
		return v, false, err
	}
	defer f.Close()
	if v, ok := d.kept(boot, digest); ok { // somebody else has just found out
		return v, true, nil
	}
	v = verdict{Version: 1, BootID: boot, Digest: digest, KVM: d.kvmDevice(), Accelerator: accelTCG, TSCkHz: d.on.khz}
	if v.TSCkHz == 0 {
		v.TSCkHz = measureTSC()
	}
	kernel := ""
	if d.opts.ProbeKernel != nil {
		kernel = d.opts.ProbeKernel()
	}
	if _, err := os.Stat(d.kvm()); err != nil {
		v.Why = "no hardware virtualisation: " + err.Error()
	} else if kernel == "" {
		v.Why = "no kernel yet to probe /dev/kvm with"
		d.on.khz = v.TSCkHz
		return v, d.opts.ProbeKernel == nil, nil
	} else if err := d.probeCPUs(ctx, kernel, &v); err != nil {
		return v, false, err
	}
	if err := sys.WriteJSON(filepath.Join(d.opts.StateDir, verdictFile), v, 0o600); err != nil {
		return v, false, mvm.Errorf(mvm.KindInternal, "save the probe's result: %w", err)
	}
	d.log.Info("chose accelerator", "accelerator", v.Accelerator, "why", v.Why)
	return v, true, nil
}

// kept returns what is kept about this host boot and binary.
func (d *Driver) kept(boot, digest string) (v verdict, ok bool) {
	b, err := os.ReadFile(filepath.Join(d.opts.StateDir, verdictFile))
	ok = err == nil && json.Unmarshal(b, &v) == nil && v.Version == 1 && v.BootID == boot && v.Digest == digest && v.KVM == d.kvmDevice()
	return v, ok
}

func (d *Driver) kvm() string { return cmp.Or(d.opts.KVM, "/dev/kvm") }

// kvmDevice describes the device: a verdict holds for as long as it is the same.
func (d *Driver) kvmDevice() string {
	var st unix.Stat_t
	if err := unix.Stat(d.kvm(), &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("device %d, mode %o, owner %d:%d", st.Rdev, st.Mode, st.Uid, st.Gid)
}

// lockState waits until no other process probes, and ends what one left that died
// over it.
func (d *Driver) lockState(ctx context.Context) (*os.File, error) {
	f, err := rundir.LockState(ctx, d.opts.StateDir, "another agent's probe of this host")
	if err != nil {
		return nil, err
	}
	if err := d.sweepProbes(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (d *Driver) sweepProbes(ctx context.Context) error {
	if _, err := d.Sweep(ctx, d.opts.StateDir, func(string) bool { return false }); err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(d.opts.StateDir, probePrefix+"*"))
	for _, dir := range dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// noSuchMSR is what QEMU says where KVM takes no IA32_ARCH_CAPABILITIES, though it tells guests
// that there is one.
const noSuchMSR = "failed to set MSR 0x10a "

// probeCPUs notes whether guests run with KVM, and with which CPU: the host's, or that without
// arch-capabilities where KVM does not take them. Its error is as of probe.
func (d *Driver) probeCPUs(ctx context.Context, kernel string, v *verdict) error {
	on := machine{accel: accelKVM}
	why, err := d.probe(ctx, kernel, on)
	if err == nil && strings.Contains(why, noSuchMSR) {
		on.noArchCaps = true
		first := why
		if why, err = d.probe(ctx, kernel, on); why != "" {
			why = first + "; without arch-capabilities: " + why
		}
	}
	if v.Why = why; err != nil || why != "" {
		return err
	}
	v.Accelerator, v.NoArchCaps, v.Why = accelKVM, on.noArchCaps, fmt.Sprintf("%d probe boots with KVM reached userspace", probeBoots)
	if on.noArchCaps {
		v.Why += ", without the CPU's arch-capabilities, which this host's KVM does not take"
	}
	return nil
}

// probe boots a guest with KVM a few times and returns why that does not work, ""
// when it does. An error is of the host's or the context's making.
func (d *Driver) probe(ctx context.Context, kernel string, on machine) (why string, err error) {
	dir, err := os.MkdirTemp(d.opts.StateDir, probePrefix)
	if err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "probe KVM: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // else the next probe does
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, probeInitrd(), 0o644); err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "probe KVM: %w", err)
	}
	for i := range probeBoots {
		start := time.Now()
		err := d.probeOnce(ctx, dir, kernel, initrd, on)
		if ctx.Err() != nil {
			return "", mvm.Errorf(mvm.KindCanceled, "probe KVM: %w", context.Cause(ctx))
		}
		if _, lacks := sys.Fault(err); lacks { // that says nothing about KVM, and snapshots fit one accelerator only
			return "", mvm.Errorf(mvm.KindUnavailable, "probe KVM: %w", err).WithFix("%s", sys.FaultFix(err))
		}
		if err != nil {
			return fmt.Sprintf("/dev/kvm is there but probe boot %d failed: %v", i+1, err), nil
		}
		d.log.Debug("probe boot with KVM reached userspace", "took", time.Since(start))
	}
	return "", nil
}

func (d *Driver) probeOnce(ctx context.Context, dir, kernel, initrd string, on machine) error {
	spec := driver.Spec{ID: vmproc.ProbeID, Dir: dir, RunDir: dir, UID: vmproc.ProbeUID, GID: vmproc.ProbeUID, VCPUs: 2, MemMiB: 192,
		Kernel: kernel, Initrd: initrd, Cmdline: "panic=-1", Memory: filepath.Join(dir, "memory"),
		Console: filepath.Join(dir, "console")}
	ctx, cancel := context.WithTimeout(ctx, probeDeadline)
	defer cancel()
	v, err := d.launch(ctx, spec, nil, on)
	if err != nil {
		return err
	}
	defer func() { _ = v.Kill(context.WithoutCancel(ctx)) }() // else the next probe does
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(spec.Console); err == nil && bytes.Contains(b, []byte(probeMark)) {
			return os.Remove(spec.Console)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-tick.C:
		case <-v.Done():
			if b, _ := os.ReadFile(spec.Console); bytes.Contains(b, []byte(probeMark)) {
				return os.Remove(spec.Console)
			}
			return fmt.Errorf("the guest ended early: %s", v.Exit().Detail)
		case <-ctx.Done():
			return fmt.Errorf("no word from userspace within %v", probeDeadline)
		}
	}
}

// machine is what decides how VMMs are made on this host.
type machine struct {
	accel      string
	noArchCaps bool // see spawn.Launch
	khz        int  // the rate of the time-stamp counter; 0: not known
}

// machine returns that of a new VMM.
func (d *Driver) machine(ctx context.Context) (machine, error) {
	info, err := d.Info(ctx)
	if err != nil {
		return machine{}, err
	}
	if d.opts.KVMOnly && info.Accelerator != accelKVM {
		return machine{}, mvm.Errorf(mvm.KindPolicy, "start VMM: production mode requires KVM: %s", info.Why).
			WithFix("see `mvm doctor`; weak_isolation = true allows it, with weaker isolation")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.on, nil
}
