package snapshot

import (
	"fmt"
	"time"

	"mvm"
	"mvm/internal/driver"
)

// Host is what of a host a snapshot belongs to: it fits no other.
type Host struct {
	VMM     string // exactly: name, version and digest
	Machine string // that guests see
}

// HostOf is the Host of a driver.
func HostOf(info driver.Info) Host {
	return Host{VMM: info.Name + " " + info.Version + " " + info.Digest, Machine: info.Machine}
}

// Describe fills in what a snapshot belongs to that was just taken of the instance.
func (h Host) Describe(ref *mvm.SnapshotRef, i mvm.Instance, now time.Time, boot string) {
	ref.Image, ref.VMM, ref.Machine = i.Image, h.VMM, h.Machine
	ref.DiskGeneration, ref.MemMiB, ref.Taken, ref.BootID = i.DiskGeneration, i.Res.MemMiB, now, boot
}

// Misfit says why a snapshot, as it is described, can't be restored into the instance on
// this host; nil: it fits.
func (h Host) Misfit(s mvm.SnapshotRef, i mvm.Instance) error {
	for _, c := range []struct {
		what, got, want string
	}{{"image", s.Image, i.Image}, {"VMM", s.VMM, h.VMM}, {"machine", s.Machine, h.Machine}} {
		if c.got != c.want {
			return mvm.Errorf(mvm.KindState, "its %s is %q, here it is %q", c.what, c.got, c.want)
		}
	}
	switch {
	case s.Consumed:
		return mvm.Errorf(mvm.KindState, "an interrupted wake has already used it")
	case s.DiskGeneration != i.DiskGeneration:
		return mvm.Errorf(mvm.KindState, "the disks have changed since (generation %d, now %d)", s.DiskGeneration, i.DiskGeneration)
	case s.MemMiB != i.Res.MemMiB:
		return mvm.Errorf(mvm.KindState, "its memory is %d MiB, now it is %d", s.MemMiB, i.Res.MemMiB)
	}
	return nil
}

// Misfit says in misfit why the instance's snapshot can't be restored on the host: it does not
// fit, or its files are not there; err, that it could not find out.
func (f Files) Misfit(h Host, i mvm.Instance) (misfit, err error) {
	if i.Snapshot == nil {
		return mvm.Errorf(mvm.KindState, "there is no snapshot"), nil
	}
	if misfit := h.Misfit(*i.Snapshot, i); misfit != nil {
		return misfit, nil
	}
	return f.Missing(*i.Snapshot)
}

// AsideMisfit says why a snapshot that was set aside does not fit its instance any more,
// "" when it does.
func (h Host) AsideMisfit(s mvm.SetAside, i mvm.Instance) string {
	if s.DataDiskMiB != i.Res.DataDiskMiB {
		return fmt.Sprintf("its data disk was of %d MiB, now it is of %d", s.DataDiskMiB, i.Res.DataDiskMiB)
	}
	if err := h.Misfit(Again(s, i), i); err != nil {
		return err.Error()
	}
	return ""
}

// Again is a snapshot that was set aside as the instance would have it again. Without a
// data disk there is none that could have moved on since.
func Again(s mvm.SetAside, i mvm.Instance) mvm.SnapshotRef {
	ref := s.Snapshot
	if s.DataDiskMiB == 0 && i.Res.DataDiskMiB == 0 {
		ref.DiskGeneration = i.DiskGeneration
	}
	return ref
}
