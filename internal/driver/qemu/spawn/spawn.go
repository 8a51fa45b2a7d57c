// Package spawn is the part of running QEMU that needs root, and nothing else: to
// start a VMM as the user of its instance, find it, end it, and bound it.
//
// It opens no file that it is told of. Whoever wants a VMM opens the VMM's files with
// rights of its own and hands them over open; the arguments of QEMU are made here,
// from a Launch that has been checked. So it can do its work for a caller that is not
// trusted, on the other side of a socket: see package hostd.
//
// A VMM is found by what was noted of it, its number and start time; by its cgroup; and
// by its name among the processes that run this QEMU, whose arguments begin with
// "-name mvm:<id>:<mark>:<RunDir>". The mark says whose VMMs they are, where several
// agents run on a host, and is the Host's own: it takes on no other's. A VMM that was
// taken over can write other arguments, and its main thread can exit while others go
// on. It keeps its user and its cgroup, and these tell whose it is.
package spawn

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"

	"mvm/internal/sys"
)

// Host starts, finds and ends VMMs. Its methods may be called from many goroutines.
type Host interface {
	// Launch starts a VMM whose vCPUs do not run. It takes over no file: the caller
	// closes them. cgroups are the folders that Leave is to remove, made or not.
	// KindInvalid when the Launch or a file of it does not fit; after an error nothing
	// runs.
	Launch(ctx context.Context, l Launch) (p Process, cgroups []string, err error)
	// Find takes hold of the VMM of the name; sys.ErrNoProcess when there is none.
	// The hint says where it was last, and may be wrong; its UID may not.
	Find(ctx context.Context, n Name, h Hint) (Process, error)
	// List returns the names of all VMMs that carry the Host's mark, with a RunDir right
	// below root.
	List(ctx context.Context, root string) ([]Name, error)
	// Survey looks at the host once for the VMMs of all instances.
	Survey(ctx context.Context) (Survey, error)
	// Leave removes the cgroups of a VMM that is gone: those of the name, and further
	// ones that it is known to have had. What is still in them is ended. What is not
	// there is no error.
	Leave(ctx context.Context, n Name, cgroup string, cgroups []string) error
}

// Process is a hold on the process of one VMM. Its methods may be called from many
// goroutines.
type Process interface {
	// ID is the process's number, and its start time in clock ticks since the host's boot.
	ID() (pid int, start uint64)
	// Kill has the process ended at once, with all that is in its cgroup, and does not
	// wait for it; sys.ErrNoProcess when it is gone.
	Kill(ctx context.Context) error
	// Wait waits until it is gone. known says whether its status could be had.
	// Interrupt or Close end a Wait with an error.
	Wait() (code int, sig syscall.Signal, known bool, err error)
	Interrupt()
	Stats() (sys.ProcessStats, error)
	// File returns a pidfd that is the caller's.
	File() (*os.File, error)
	// Close lets go of the process.
	Close() error
}

// Survey is what a look at the host found. No VMM is anywhere else: each is a process of
// its instance's user, and keeps the cgroup of its instance from going.
type Survey struct {
	Users   []int    `json:"users"`   // of instances, that have a process, whatever it runs; sorted
	Cgroups []string `json:"cgroups"` // ids of instances and probes that have a cgroup, of any mark; sorted
}

// Nothing reports that there is neither a process nor a cgroup of the instance with the
// user.
func (s Survey) Nothing(id string, uid int) bool {
	_, process := slices.BinarySearch(s.Users, uid)
	_, cgroup := slices.BinarySearch(s.Cgroups, id)
	return uid > 0 && !process && !cgroup
}

// Hint says which process a VMM was.
type Hint struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	// UID is the user of the instance, 0: not known. No process of another is the VMM.
	UID int `json:"uid,omitempty"`
}

// Name is how a VMM is found.
type Name struct {
	ID     string `json:"id"`
	RunDir string `json:"run_dir"` // part of the name only, never opened here
}

// namePrefix begins the name by which a VMM is found among all processes.
const namePrefix = "mvm:"

// String is the name as it is in the arguments of a VMM without a mark.
func (n Name) String() string { return n.marked("") }

// marked is the name as it is in the arguments of a VMM with the mark.
func (n Name) marked(mark string) string {
	if mark != "" {
		mark += ":"
	}
	return namePrefix + n.ID + ":" + mark + n.RunDir
}

// parseName takes a VMM's name apart. The mark is empty in one that an older mvm
// started.
func parseName(s string) (n Name, mark string, ok bool) {
	id, rest, ok := strings.Cut(strings.TrimPrefix(s, namePrefix), ":")
	if !strings.HasPrefix(rest, "/") {
		var more bool
		mark, rest, more = strings.Cut(rest, ":")
		ok = ok && more
	}
	n = Name{ID: id, RunDir: rest}
	return n, mark, ok && strings.HasPrefix(s, namePrefix) && n.Check() == nil
}

// nameOf returns the name of a VMM from its arguments, "" for anything else.
func nameOf(args []string) string {
	for i := 0; i+1 < len(args) && i < 3; i++ {
		if args[i] == "-name" && strings.HasPrefix(args[i+1], namePrefix) {
			return args[i+1]
		}
	}
	return ""
}

// Launch is all that decides about a VMM.
type Launch struct {
	Name
	UID     int    `json:"uid"` // the VMM runs as this user and group
	GID     int    `json:"gid"`
	Cgroup  string `json:"cgroup"`  // "mvm-<id>", or "" for none
	Accel   string `json:"accel"`   // AccelKVM or AccelTCG
	TSCkHz  int    `json:"tsc_khz"` // what TCG gives guests, 0: not known
	VCPUs   int    `json:"vcpus"`
	MemMiB  int    `json:"mem_mib"`
	Restore bool   `json:"restore"` // to take a device state; else it boots a kernel
	Cmdline string `json:"cmdline"` // of the kernel
	MAC     string `json:"mac"`     // with a TAP
	Disks   []Disk `json:"disks"`

	// Mark is that of the Host, which sets it.
	Mark string `json:"-"`

	Files Files `json:"-"`
	// Owner is who opened the files: the VMM's memory is taken from no other.
	Owner Owner `json:"-"`
}

// Owner is a user with its group.
type Owner struct{ UID, GID int }

// Disk is one virtio-blk disk.
type Disk struct {
	Serial   string `json:"serial"`
	ReadOnly bool   `json:"read_only"`
}

// Files are the open files of a VMM.
type Files struct {
	Lock, Log             *os.File // held for the VMM's life, and what QEMU says
	Memory                *os.File // read and write, of MemMiB
	QMP, Console, Channel *os.File // listening unix sockets
	Kernel, Initrd        *os.File // nil: none; the kernel is nil for a restore
	Disks                 []*os.File
	TAP                   *os.File // nil: no network
}

// AccelKVM and AccelTCG are the accelerators.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)
