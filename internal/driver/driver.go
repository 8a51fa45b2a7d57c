// Package driver is the contract between the agent and one kind of VMM.
//
// A VMM is one process that runs one instance. It outlives the agent: a driver
// keeps nothing in memory that it can't find again from the Spec, which the agent
// has chosen and made durable before it calls Start. So a VMM can be found and
// killed even if the call that started it never returned.
//
// Life of a VMM:
//
//	Start ──────────────► running ◄─ Pause/Resume ─► paused ─ Snapshot ─► paused
//	Restore ─► paused ─ Resume ─► running                                 │
//	running | paused ── Stop (orderly) or Kill ──► gone                   ▼
//	                                            Resume (sleep cancelled) or Kill
//
// Concurrency: a Driver may be used from many goroutines for different Specs. For
// one instance the agent makes one call at a time, except Dial, Stats, Done and
// Kill, which may come at any moment. Every call honours its context; a call that
// fails leaves the VMM as it was or, for Start and Restore, leaves nothing behind.
//
// Errors have the kinds of package mvm: KindNotFound from Recover when no VMM
// runs, KindState for a call that the VMM's state does not allow, KindUnavailable
// when the VMM or guest does not answer, KindInvalid for a Spec or snapshot that
// does not fit.
//
// A failed Restore says nothing about the snapshot unless it is a SnapshotError. A
// full disk, no file descriptor or memory left, a VMM that can't be started, does not
// answer or is killed from outside: with all of these the snapshot is as good as
// before, and the caller keeps it.
package driver

import (
	"context"
	"errors"
	"mvm/internal/tenantkey"
	"net"
	"os"
	"time"

	"mvm"
)

// Driver runs instances in one kind of VMM.
type Driver interface {
	// Info describes the driver on this host. It may probe (boot a tiny guest) the
	// first time on a host boot; the result is kept.
	Info(ctx context.Context) (Info, error)

	// Start boots the instance from its disks. It returns when the VMM runs and its
	// control socket answers; the guest may still be booting. The VMM is running.
	Start(ctx context.Context, spec Spec) (VMM, error)

	// Restore makes a VMM from the snapshot. It returns with vCPUs paused: nothing
	// has run, the snapshot is still intact, and Kill gives it up without loss. The
	// caller must treat the snapshot as consumed before it calls Resume. An error that
	// is about the snapshot itself is a SnapshotError; after any other one, trying
	// again may help.
	Restore(ctx context.Context, spec Spec, snap Snapshot) (VMM, error)

	// Recover takes up the VMM that runs for the Spec, after an agent restart.
	// KindNotFound when there is none.
	Recover(ctx context.Context, spec Spec) (VMM, error)

	// Survey looks at the host once for many instances. The function that it returns
	// reports that nothing of the driver's is there for a Spec: Recover would find no VMM,
	// and Destroy would have nothing to end or remove. It is true of the moment of the
	// Survey, and false in doubt. It needs ID, Dir, RunDir, UID and Memory of the Spec,
	// and may be called from many goroutines.
	Survey(ctx context.Context) (nothing func(Spec) bool, err error)

	// Destroy kills whatever VMM runs for the Spec, waits until it is gone, and
	// removes the driver's files in RunDir. It needs only ID, Dir, RunDir and Cgroup
	// of the Spec. It is idempotent and works after a Start that was cut off anywhere.
	Destroy(ctx context.Context, spec Spec) error

	// Sweep destroys every VMM of this driver below the root that owned does not
	// claim, and returns the instance ids that it ended. root is the parent of RunDirs.
	Sweep(ctx context.Context, root string, owned func(id string) bool) ([]string, error)
}

// VMM is one VMM process that the agent holds.
type VMM interface {
	// PID is the VMM's process id, 0 for drivers without a process.
	PID() int
	// Done is closed when the VMM is gone, for whatever reason. A call that fails because
	// the VMM ends returns after that, or a few seconds later where the end takes longer.
	Done() <-chan struct{}
	// Exit says how it ended, once Done is closed.
	Exit() Exit
	// Paused reports whether the vCPUs are paused.
	Paused(ctx context.Context) (bool, error)

	Pause(ctx context.Context) error // idempotent
	// Resume is idempotent. After an error Paused says whether the vCPUs have run.
	Resume(ctx context.Context) error

	// Snapshot writes the device state and the memory of the paused VMM, sealed where the
	// driver does that. When it
	// returns, all files are complete and fsynced. The VMM stays paused: Resume goes on as if
	// nothing was, and then the snapshot no longer fits and must be discarded. After an error
	// nothing of it is left.
	Snapshot(ctx context.Context, snap Snapshot) error

	// Powerdown asks the guest to power off by the machine's means (ACPI). The
	// guest may ignore it. Use Done to see it end.
	Powerdown(ctx context.Context) error

	// Kill ends the VMM at once and waits until it is gone.
	Kill(ctx context.Context) error

	// Dial opens a stream to a port of the guest. KindUnavailable when the guest does
	// not answer within the context. Streams to the host's port 53 come in on the unix
	// socket <RunDir>/v.sock_53, on which the agent listens before Start; to others
	// there are none.
	Dial(ctx context.Context, port uint32) (net.Conn, error)

	// Stats measures the VMM.
	Stats(ctx context.Context) (Stats, error)

	// Close lets go of the VMM without ending it. The VMM can then be Recovered.
	Close() error
}

// Greeter is a VMM that can pass a short greeting to a guest that was just restored,
// quicker than any stream: see guestproto.Resume. It works once, after Resume and
// before the first Dial: KindState otherwise. KindUnavailable when the guest does not
// answer within the context; Dial works all the same.
type Greeter interface {
	Greet(ctx context.Context, body []byte) (answer []byte, err error)
}

// Clocked is a VMM that knows when its vCPUs last stood still and last ran again, by
// the host's clock and more exactly than the calls of Pause and Resume tell. Zero
// when this holder of the VMM has not seen it.
type Clocked interface {
	Stopped() time.Time
	Resumed() time.Time
}

// Staller is a VMM that knows when its guest stands still though nobody paused it, for
// want of something that its host may have again.
type Staller interface {
	// Stalled says why, for people; "" while it does not stand still. It asks nobody.
	Stalled() string
}

// Software is the accelerator of guests that run without hardware virtualisation.
const Software = "tcg"

// Info describes a driver on this host.
type Info struct {
	Name        string `json:"name"`        // "qemu"
	Version     string `json:"version"`     // of the VMM
	Digest      string `json:"digest"`      // of the VMM's binary; a snapshot fits only the same
	Accelerator string `json:"accelerator"` // "kvm", Software, "none"
	Machine     string `json:"machine"`     // machine type and CPU model
	// Why says how the accelerator was chosen.
	Why string `json:"why"`
	// Missing are walls around VMMs, and bounds of them, that this host lacks.
	Missing  []mvm.Finding `json:"missing,omitempty"`
	Features Features      `json:"features"`
}

// Features are what a driver can do, as data.
type Features struct {
	Snapshot bool `json:"snapshot"`
	// Process: VMMs are processes (PID, cgroup).
	Process bool `json:"process"`
	// Sealed: snapshots are written sealed with a key, and without one only restored. Others
	// write them in the clear, and take no key.
	Sealed bool `json:"sealed,omitempty"`
	// TAPByName: VMMs open TAPs by name, Spec.TAPName.
	TAPByName bool `json:"tap_by_name,omitempty"`
}

// Spec is all that a VMM needs. The agent chooses every path and id and makes them
// durable first. Paths are absolute.
type Spec struct {
	ID     string // instance id
	Dir    string // durable folder of the instance; it and RunDir are the agent's, 0700
	RunDir string // volatile folder: sockets, pid file; short enough for unix sockets
	UID    int    // the VMM runs as this user and group
	GID    int
	Cgroup string // name below the agent's own cgroup; may be empty

	// Limits are in force from the guest's first instruction on; the zero value: none but for
	// those of CPU time that every VMM has. A driver may know those of CPU time alone. A host that can't limit CPU time runs it without.
	Limits mvm.Limits

	VCPUs   int
	MemMiB  int
	Kernel  string
	Initrd  string
	Cmdline string // of the image; the driver adds console and clock arguments
	Disks   []Disk // in order: vda, vdb, …

	// Opened are files among Kernel, Initrd and Disks, by their path, that the caller has
	// opened and checked: the VMM gets these very files. The driver hands them on and does
	// not close them. It opens the others by their path.
	Opened map[string]*os.File

	Memory  string // the guest's memory, of a snapshot in the clear; made by the driver, 0600
	Console string // console log, appended to and bounded by the driver

	TAP *os.File // the driver hands it on and does not close it
	// TAPName is in place of TAP where Features.TAPByName says so: the VMM opens it itself. It
	// is persistent, and the Spec's UID owns it. Without either there is no network interface.
	TAPName string
	MAC     string
}

// Disk is one virtio-blk disk.
type Disk struct {
	Path     string
	Serial   string // at most 20 bytes; /dev/disk/by-id and the guest find it by this
	ReadOnly bool
}

// Snapshot names the files of one snapshot, and has the key that seals them: the map of the
// memory and the device state in a folder, and segments in another, which all snapshots of
// the instance share. See package atrest, which writes and reads them for all drivers.
type Snapshot struct {
	ID       string // names it among all, and is sealed with it
	State    string // is in its folder
	Segments string // the folder of segments, which is there
	// Previous is the snapshot from which the guest was restored: what the memory has in
	// common with it is not written again. It may be the zero value.
	Previous Previous
	// Key is the tenant's. Without it the snapshot is one in the clear, of an older version or of
	// a driver that seals none: State is the device state and Spec.Memory the memory, and what
	// that lacks is beside the state.
	Key *tenantkey.Key
	// Ready may have the snapshot's memory, for a Restore. A Restore takes it if it is of just
	// this snapshot, and else reads the files; the caller closes it afterwards.
	Ready *Ready
}

// Previous is where the map of an earlier snapshot is.
type Previous struct{ ID, Dir string }

// Pages is the file of the pages that Spec.Memory lacks, in a snapshot without a key.
func (s Snapshot) Pages() string { return s.State + PagesSuffix }

// Whole is the file of all of the guest's memory, which is to take the place of
// Spec.Memory, in a snapshot without a key.
func (s Snapshot) Whole() string { return s.State + WholeSuffix }

// The ends of the names of what is beside a device state.
const (
	PagesSuffix = ".pages"
	WholeSuffix = ".memory"
)

// SnapshotError says of a snapshot that it can't be restored: a part of it is missing
// or damaged, or the VMM refuses its content. It never comes of a fault of the host.
type SnapshotError struct {
	Err error // what is wrong with it; its kind is that of the SnapshotError
}

// Error returns what is wrong.
func (e *SnapshotError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *SnapshotError) Unwrap() error { return e.Err }

// BadSnapshot reports whether err is positively about the snapshot, so that trying
// again can't help.
func BadSnapshot(err error) bool {
	var e *SnapshotError
	return errors.As(err, &e)
}

// Exit says how a VMM ended.
type Exit struct {
	Code   int
	Signal int
	// Guest: the guest powered off or reset by itself.
	Guest bool
	// Panic is what the guest's kernel said when it panicked, "" where it did not. It is
	// the guest's own word.
	Panic  string
	Detail string
}

// Stats are measures of a VMM, summed since it started.
type Stats struct {
	CPU      time.Duration `json:"cpu_ns"`
	RSSBytes int64         `json:"rss_bytes"`
	// Throttled is how long it wanted more CPU time than it may have.
	Throttled time.Duration `json:"cpu_throttled_ns,omitempty"`
	// DiskWait is how long requests of the guest waited for its disks, all added up.
	DiskWait time.Duration `json:"disk_wait_ns,omitempty"`
	RxBytes  int64         `json:"rx_bytes"` // received by the guest
	TxBytes  int64         `json:"tx_bytes"`
	DiskRead int64         `json:"disk_read_bytes"`
	DiskWrit int64         `json:"disk_written_bytes"`
}
