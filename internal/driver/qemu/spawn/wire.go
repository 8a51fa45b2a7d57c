package spawn

import (
	"context"
	"encoding/json"
	"os"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/strictjson"
)

// Kind names the VMMs of this package where there are several kinds.
const Kind = "qemu"

// spec is the part of a Launch that only this package reads. What is known of a VMM
// whatever its kind is in vmproc.Launch.
type spec struct {
	Accel   string `json:"accel"`
	NoCaps  bool   `json:"no_arch_caps,omitempty"`
	TSCkHz  int    `json:"tsc_khz"`
	VCPUs   int    `json:"vcpus"`
	MemMiB  int    `json:"mem_mib"`
	Restore bool   `json:"restore"`
	Cmdline string `json:"cmdline"`
	MAC     string `json:"mac"`
	Disks   []Disk `json:"disks"`
	// Which files are there beside lock, log, memory, the three sockets and the disks'.
	Kernel bool `json:"kernel"`
	Initrd bool `json:"initrd"`
	TAP    bool `json:"tap"`
}

// Over returns the Host of whoever asks a launcher that Launcher made, which may be on the
// other side of a socket.
func Over(l vmproc.Launcher) Host { return over{l, l} }

type over struct {
	vmproc.Host
	to vmproc.Launcher
}

// Launch is described at Host.
func (o over) Launch(ctx context.Context, l Launch) (vmproc.Process, []string, error) {
	sent, err := l.put()
	if err != nil {
		return nil, nil, err
	}
	return o.to.Launch(ctx, sent)
}

// Launcher lets a Host be asked in words that are the same for all kinds of VMM.
func Launcher(h Host) vmproc.Launcher { return launcher{h, h} }

type launcher struct {
	vmproc.Host
	to Host
}

// Launch is described at vmproc.Launcher.
func (s launcher) Launch(ctx context.Context, sent vmproc.Launch) (vmproc.Process, []string, error) {
	l, err := take(sent)
	if err != nil {
		return nil, nil, err
	}
	return s.to.Launch(ctx, l)
}

// put is the Launch in the words of all kinds of VMM, with its files in the order in which
// take expects them. KindInvalid where a file is missing.
func (l Launch) put() (vmproc.Launch, error) {
	f := l.Files
	files := []*os.File{f.Lock, f.Log, f.Memory, f.QMP, f.Console, f.Channel}
	for _, further := range []*os.File{f.Kernel, f.Initrd, f.TAP} {
		if further != nil {
			files = append(files, further)
		}
	}
	files = append(files, f.Disks...)
	for _, f := range files {
		if f == nil {
			return vmproc.Launch{}, mvm.Errorf(mvm.KindInvalid, "start the VMM of %s: a file is missing", l.ID)
		}
	}
	b, err := json.Marshal(spec{Accel: l.Accel, NoCaps: l.NoArchCaps, TSCkHz: l.TSCkHz, VCPUs: l.VCPUs, MemMiB: l.MemMiB, Restore: l.Restore, Cmdline: l.Cmdline,
		MAC: l.MAC, Disks: l.Disks, Kernel: f.Kernel != nil, Initrd: f.Initrd != nil, TAP: f.TAP != nil})
	return vmproc.Launch{Name: l.Name, UID: l.UID, GID: l.GID, Cgroup: l.Cgroup, Spec: b, Files: files, Owner: l.Owner}, err
}

// take is the reverse of put, of a caller that is not trusted.
func take(sent vmproc.Launch) (Launch, error) {
	var s spec
	if err := strictjson.Unmarshal(sent.Spec, &s); err != nil {
		return Launch{}, mvm.Errorf(mvm.KindInvalid, "read the VMM's spec: %w", err)
	}
	l := Launch{Name: sent.Name, UID: sent.UID, GID: sent.GID, Cgroup: sent.Cgroup, Owner: sent.Owner, Accel: s.Accel, NoArchCaps: s.NoCaps, TSCkHz: s.TSCkHz,
		VCPUs: s.VCPUs, MemMiB: s.MemMiB, Restore: s.Restore, Cmdline: s.Cmdline, MAC: s.MAC, Disks: s.Disks}
	f := &l.Files
	places := []**os.File{&f.Lock, &f.Log, &f.Memory, &f.QMP, &f.Console, &f.Channel}
	for _, further := range []struct {
		there bool
		place **os.File
	}{{s.Kernel, &f.Kernel}, {s.Initrd, &f.Initrd}, {s.TAP, &f.TAP}} {
		if further.there {
			places = append(places, further.place)
		}
	}
	if want := len(places) + len(s.Disks); len(s.Disks) > MaxDisks || len(sent.Files) != want {
		return Launch{}, mvm.Errorf(mvm.KindInvalid, "read the VMM's spec: %d files came with it, not %d", len(sent.Files), want)
	}
	for i, p := range places {
		*p = sent.Files[i]
	}
	f.Disks = sent.Files[len(places):]
	return l, nil
}
